"""run_command and open_command: programs written in C, as subprocesses."""

from __future__ import annotations

import anyio
import pytest

from aiowasm import EXIT_CANCELLED, DeadlineError, Limits, LinkError, Module, Trap, open_command, run_command
from aiowasm.host.wasi import HostDir, MemFS

pytestmark = pytest.mark.anyio

ECHO = r"""
#include <stdio.h>
#include <string.h>
int main(int count, char **arguments) {
    char line[100];
    while (fgets(line, sizeof line, stdin)) {
        printf("%s got %s", arguments[1], line);
        fflush(stdout);
        if (!strcmp(line, "quit\n")) return 7;
    }
    fputs("end\n", stderr);
    return 3;
}
"""

FILES = r"""
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int main(void) {
    char text[64] = {0};
    mkdir("/data/made", 0777);
    FILE *file = fopen("/data/made/file", "w+");
    fprintf(file, "line %d\n", 1);
    fseek(file, 5, SEEK_SET);
    fprintf(file, "2");
    rewind(file);
    fgets(text, sizeof text, file);
    fclose(file);
    printf("%s", text);
    rename("/data/made/file", "/data/renamed");
    symlink("renamed", "/data/link");
    printf("%zd ", readlink("/data/link", text, sizeof text));
    struct stat info;
    stat("/data/link", &info);
    printf("%lld %d\n", (long long)info.st_size, S_ISREG(info.st_mode));
    DIR *directory = opendir("/data");
    int count = 0;
    while (readdir(directory)) count++;
    closedir(directory);
    printf("%d entries\n", count);
    printf("%s\n", open("/data/none", O_RDONLY) < 0 ? strerror(errno) : "?");
    printf("%s\n", open("/data/../etc/passwd", O_RDONLY) < 0 ? "refused" : "escaped");
    printf("%s\n", open("/other", O_RDONLY) < 0 ? strerror(errno) : "?");
    printf("%s %s\n", getenv("NAME"), isatty(1) ? "terminal" : "no terminal");
    unlink("/data/link");
    unlink("/data/renamed");
    printf("%d\n", rmdir("/data/made"));
}
"""


async def test_the_result(compile_c, engine: str) -> None:
    result = await run_command(compile_c(ECHO), args=["echo", "it"], stdin=b"one\ntwo\n", engine=engine, timeout=30)
    assert result.exit_code == 3
    assert result.stdout == b"it got one\nit got two\n"
    assert result.stderr == b"end\n"
    assert result.fuel_consumed > 1000
    assert result.peak_memory_bytes >= 65_536


@pytest.mark.parametrize("kind", ["HostDir", "offloaded", "MemFS"])
async def test_files(compile_c, engine: str, kind: str, tmp_path) -> None:
    fs = {
        "HostDir": lambda: HostDir(tmp_path),
        "offloaded": lambda: HostDir(tmp_path, offload="always"),
        "MemFS": MemFS,
    }[kind]()
    result = await run_command(compile_c(FILES), args=["files"], env={"NAME": "value"}, fs={"/data": fs}, engine=engine)
    lines = result.stdout.decode().splitlines()
    assert lines == [
        "line 2",
        "7 7 1",
        "5 entries",
        "No such file or directory",
        "refused",
        lines[5],  # how a C library says that nothing is mounted there
        "value no terminal",
        "0",
    ]
    assert not list(tmp_path.iterdir())


async def test_a_trap_keeps_what_was_written(compile_c, engine: str) -> None:
    program = compile_c('#include <stdio.h>\nint main(void) { fputs("because", stderr); __builtin_trap(); }')
    with pytest.raises(Trap) as caught:
        await run_command(program, engine=engine)
    assert caught.value.result.stderr == b"because"


async def test_limits(compile_c, engine: str) -> None:
    program = compile_c("volatile int x; int main(void) { for (;;) x++; }")
    with pytest.raises(DeadlineError):
        await run_command(program, timeout=0.2, engine=engine)
    with pytest.raises(Trap, match="out of fuel"):
        await run_command(program, limits=Limits(fuel=100_000), engine=engine)


async def test_a_conversation(compile_c, engine: str) -> None:
    module = await Module.from_bytes(compile_c(ECHO))
    with anyio.fail_after(30):
        async with open_command(module, args=["echo", "it"], engine=engine) as process:
            assert process.exit_code is None
            for word in (b"one\n", b"two\n"):
                await process.stdin.send(word)
                assert await process.stdout.receive() == b"it got " + word
            await process.stdin.send(b"quit\n")
            assert await process.stdout.receive() == b"it got quit\n"
            assert await process.wait() == 7
            with pytest.raises(anyio.EndOfStream):
                await process.stdout.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await process.stdin.send(b"more")
        assert process.exit_code == 7
        assert process.result.fuel_consumed > 0


async def test_the_end_of_stdin(compile_c, engine: str) -> None:
    with anyio.fail_after(30):
        async with open_command(compile_c(ECHO), args=["echo", "it"], engine=engine) as process:
            await process.stdin.aclose()
            assert await process.stderr.receive() == b"end\n"
            assert await process.wait() == 3
        async with open_command(compile_c(ECHO), args=["echo", "it"], engine=engine) as process:
            pass  # leaving closes stdin, which the program ends at
        assert process.exit_code == 3


async def test_killing(compile_c, engine: str) -> None:
    with anyio.fail_after(30):
        async with open_command(compile_c(ECHO), args=["echo", "it"], engine=engine) as process:
            await anyio.sleep(0.05)
            process.kill()
            assert await process.wait() == EXIT_CANCELLED
        with pytest.raises(ZeroDivisionError):
            async with open_command(compile_c(ECHO), args=["echo", "it"], engine=engine) as process:
                raise ZeroDivisionError
        assert process.exit_code == EXIT_CANCELLED
        with anyio.move_on_after(0.05) as scope:
            async with open_command(compile_c(ECHO), args=["echo", "it"], engine=engine) as process:
                await process.wait()
        assert scope.cancelled_caught
        assert process.exit_code == EXIT_CANCELLED


async def test_what_cannot_be_run(engine: str) -> None:
    with anyio.fail_after(30):
        async with open_command(b"\0asm\1\0\0\0", engine=engine) as process:
            with pytest.raises(LinkError):
                await process.wait()
    with pytest.raises(RuntimeError):
        await open_command(b"").wait()


async def test_back_pressure(compile_c, engine: str) -> None:
    """A program that nobody reads from waits, and loses nothing."""
    program = compile_c(
        '#include <stdio.h>\nint main(void) { for (int i = 0; i < 100000; i++) puts("0123456789"); return 0; }'
    )
    with anyio.fail_after(60):
        async with open_command(program, engine=engine) as process:
            await anyio.sleep(0.3)
            assert process.exit_code is None
            received = b"".join([chunk async for chunk in process.stdout])
            assert len(received) == 1_100_000
            assert await process.wait() == 0
