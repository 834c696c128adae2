/* Replaces every letter by its upper case, from stdin to stdout: stands for any filter that people upload. */
#include <unistd.h>

static char block[16384];

int main(void) {
    ssize_t n;
    while ((n = read(0, block, sizeof block)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            if (block[i] >= 'a' && block[i] <= 'z') block[i] -= 32;
        for (ssize_t done = 0, written; done < n; done += written)
            if ((written = write(1, block + done, n - done)) < 0) return 1;
    }
    return n < 0;
}
