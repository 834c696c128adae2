;; Reads the user with the number it is given from the host's database and returns a greeting: (offset, nbytes).
(module
  (import "host" "name_of" (func $name_of (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "hello, ")
  (func (export "handle") (param $user i32) (result i32 i32)
    (i32.const 0)
    (i32.add (i32.const 7) (call $name_of (local.get $user) (i32.const 7) (i32.const 100)))))
