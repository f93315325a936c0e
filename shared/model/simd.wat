;; What is done to every value of the rows that go between workers and gateways, four at a time. Rows begin at multiples of 16 bytes
;; and are read up to the next such multiple. Rounding is IEEE 754's, operation by operation: the bits are the same on every processor.
(module
  (memory (export "memory") 1)

  ;; sum += weight · row, both float32; sumEnd is where sum ends.
  (func (export "addFloats") (param $sum i32) (param $sumEnd i32) (param $row i32) (param $weight f32)
    (local $w v128)
    (local.set $w (f32x4.splat (local.get $weight)))
    (loop $next
      (v128.store (local.get $sum)
        (f32x4.add
          (v128.load (local.get $sum))
          (f32x4.mul (local.get $w) (v128.load (local.get $row)))))
      (local.set $sum (i32.add (local.get $sum) (i32.const 16)))
      (local.set $row (i32.add (local.get $row) (i32.const 16)))
      (br_if $next (i32.lt_u (local.get $sum) (local.get $sumEnd)))))

  ;; Eight values of 16 bits: sum += w · values.
  (func $addEight (param $sum i32) (param $w v128) (param $values v128)
    (v128.store (local.get $sum)
      (f32x4.add
        (v128.load (local.get $sum))
        (f32x4.mul (local.get $w) (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $values))))))
    (v128.store offset=16 (local.get $sum)
      (f32x4.add
        (v128.load offset=16 (local.get $sum))
        (f32x4.mul (local.get $w) (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $values)))))))

  ;; sum += weight · (row − 128), where row is bytes.
  (func (export "addBytes") (param $sum i32) (param $sumEnd i32) (param $row i32) (param $weight f32)
    (local $w v128) (local $bytes v128)
    (local.set $w (f32x4.splat (local.get $weight)))
    (loop $next
      (local.set $bytes (v128.xor (v128.load (local.get $row)) (i8x16.splat (i32.const 128))))
      (call $addEight (local.get $sum) (local.get $w) (i16x8.extend_low_i8x16_s (local.get $bytes)))
      (call $addEight
        (i32.add (local.get $sum) (i32.const 32)) (local.get $w) (i16x8.extend_high_i8x16_s (local.get $bytes)))
      (local.set $sum (i32.add (local.get $sum) (i32.const 64)))
      (local.set $row (i32.add (local.get $row) (i32.const 16)))
      (br_if $next (i32.lt_u (local.get $sum) (local.get $sumEnd)))))

  ;; Largest magnitude of float32 values. Without their sign their bits order as they do, with what is not finite above all.
  (func $largest (export "largest") (param $values i32) (param $valuesEnd i32) (result f32)
    (local $most v128)
    (loop $next
      (local.set $most
        (i32x4.max_s
          (local.get $most)
          (v128.and (v128.load (local.get $values)) (i32x4.splat (i32.const 0x7fffffff)))))
      (local.set $values (i32.add (local.get $values) (i32.const 16)))
      (br_if $next (i32.lt_u (local.get $values) (local.get $valuesEnd))))
    (local.set $most
      (i32x4.max_s
        (local.get $most)
        (i8x16.shuffle 8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7 (local.get $most) (local.get $most))))
    (f32x4.extract_lane 0
      (i32x4.max_s
        (local.get $most)
        (i8x16.shuffle 4 5 6 7 0 1 2 3 12 13 14 15 8 9 10 11 (local.get $most) (local.get $most)))))

  ;; Four values in units of scale / 127, rounded; 0 where scale is 0.
  (func $levels (param $values v128) (param $scale v128) (result v128)
    (i32x4.trunc_sat_f32x4_s
      (f32x4.nearest
        (f32x4.mul (f32x4.div (local.get $values) (local.get $scale)) (f32x4.splat (f32.const 127))))))

  ;; Float32 values to bytes around 128, in units of scale / 127; gives the scale, which is the largest magnitude.
  (func (export "quantise") (param $values i32) (param $valuesEnd i32) (param $bytes i32) (result f32)
    (local $largest f32) (local $scale v128)
    (local.set $largest (call $largest (local.get $values) (local.get $valuesEnd)))
    (local.set $scale (f32x4.splat (local.get $largest)))
    (loop $next
      (v128.store (local.get $bytes)
        (v128.xor
          (i8x16.splat (i32.const 128))
          (i8x16.narrow_i16x8_s
            (i16x8.narrow_i32x4_s
              (call $levels (v128.load (local.get $values)) (local.get $scale))
              (call $levels (v128.load offset=16 (local.get $values)) (local.get $scale)))
            (i16x8.narrow_i32x4_s
              (call $levels (v128.load offset=32 (local.get $values)) (local.get $scale))
              (call $levels (v128.load offset=48 (local.get $values)) (local.get $scale))))))
      (local.set $values (i32.add (local.get $values) (i32.const 64)))
      (local.set $bytes (i32.add (local.get $bytes) (i32.const 16)))
      (br_if $next (i32.lt_u (local.get $values) (local.get $valuesEnd))))
    (local.get $largest)))
