;; Adds up the scores of all users below the number it is given, asking the host for each, and returns it in decimal.
(module
  (import "host" "score_of" (func $score_of (param i32) (result i64)))
  (memory (export "memory") 1)
  (func (export "handle") (param $user i32) (result i32 i32) (local $total i64) (local $at i32)
    (loop $next
      (local.set $user (i32.sub (local.get $user) (i32.const 1)))
      (if (i32.ge_s (local.get $user) (i32.const 0)) (then
        (local.set $total (i64.add (local.get $total) (call $score_of (local.get $user))))
        (br $next))))
    (local.set $at (i32.const 64))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $total) (i64.const 10)))))
      (local.set $total (i64.div_u (local.get $total) (i64.const 10)))
      (br_if $digit (i64.ne (local.get $total) (i64.const 0))))
    (local.get $at)
    (i32.sub (i32.const 64) (local.get $at))))
