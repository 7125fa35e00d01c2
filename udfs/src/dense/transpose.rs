//! Squares of numbers, transposed in registers.

#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};
#[cfg(target_arch = "x86_64")]
use pulp::{NullaryFnOnce, cast};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

/// Vectors that hold a side of a square.
pub(super) trait Transpose<const SIDE: usize>: Copy {
    fn transpose(self, rows: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE];
}

/// What is done with squares, whatever their size.
pub(super) trait WithSquares {
    fn run<const SIDE: usize>(self, squares: impl Transpose<SIDE>);
}

/// Does it with the largest squares that the processor has vectors for, and whose sides `lanes` are a multiple of.
pub(super) fn with_squares(lanes: usize, work: impl WithSquares) {
    #[cfg(target_arch = "x86_64")]
    match (V4::try_new(), V3::try_new()) {
        (Some(simd), _) if lanes.is_multiple_of(16) => {
            return simd.vectorize(Vectorized::<_, _, 16> { simd, work });
        }
        (_, Some(simd)) if lanes.is_multiple_of(8) => {
            return simd.vectorize(Vectorized::<_, _, 8> { simd, work });
        }
        _ => {}
    }
    work.run(Single);
}

#[cfg(target_arch = "x86_64")]
struct Vectorized<S, W, const SIDE: usize> {
    simd: S,
    work: W,
}

#[cfg(target_arch = "x86_64")]
impl<S: Transpose<SIDE>, W: WithSquares, const SIDE: usize> NullaryFnOnce
    for Vectorized<S, W, SIDE>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.work.run(self.simd);
    }
}

/// Single numbers.
#[derive(Clone, Copy)]
struct Single;

impl Transpose<1> for Single {
    fn transpose(self, rows: [[f32; 1]; 1]) -> [[f32; 1]; 1] {
        rows
    }
}

#[cfg(target_arch = "x86_64")]
impl Transpose<8> for V3 {
    #[inline(always)]
    fn transpose(self, rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
        let simd = self.avx;
        let [a, b, c, d, e, f, g, h]: [__m256; 8] = rows.map(cast);
        // Pairs, then fours, then halves.
        let pair = |a, b| (simd._mm256_unpacklo_ps(a, b), simd._mm256_unpackhi_ps(a, b));
        let ((ab0, ab1), (cd0, cd1), (ef0, ef1), (gh0, gh1)) =
            (pair(a, b), pair(c, d), pair(e, f), pair(g, h));
        let four =
            |a, b| (simd._mm256_shuffle_ps::<0x44>(a, b), simd._mm256_shuffle_ps::<0xee>(a, b));
        let ((low0, low1), (low2, low3)) = (four(ab0, cd0), four(ab1, cd1));
        let ((high0, high1), (high2, high3)) = (four(ef0, gh0), four(ef1, gh1));
        let half = |a, b| {
            let low = simd._mm256_permute2f128_ps::<0x20>(a, b);
            (low, simd._mm256_permute2f128_ps::<0x31>(a, b))
        };
        let ((v0, v4), (v1, v5)) = (half(low0, high0), half(low1, high1));
        let ((v2, v6), (v3, v7)) = (half(low2, high2), half(low3, high3));
        [v0, v1, v2, v3, v4, v5, v6, v7].map(cast)
    }
}

#[cfg(target_arch = "x86_64")]
impl Transpose<16> for V4 {
    #[inline(always)]
    fn transpose(self, rows: [[f32; 16]; 16]) -> [[f32; 16]; 16] {
        let simd = self.avx512f;
        let zero: __m512 = cast([0.0f32; 16]);
        // Four rows each: of the columns c, c + 4, c + 8 and c + 12, for each of four c.
        let mut fours = [[zero; 4]; 4];
        for (four, rows) in fours.iter_mut().zip(rows.as_chunks::<4>().0) {
            let [a, b, c, d]: [__m512; 4] =
                [cast(rows[0]), cast(rows[1]), cast(rows[2]), cast(rows[3])];
            let (ab0, ab1) = (simd._mm512_unpacklo_ps(a, b), simd._mm512_unpackhi_ps(a, b));
            let (cd0, cd1) = (simd._mm512_unpacklo_ps(c, d), simd._mm512_unpackhi_ps(c, d));
            *four = [
                simd._mm512_shuffle_ps::<0x44>(ab0, cd0),
                simd._mm512_shuffle_ps::<0xee>(ab0, cd0),
                simd._mm512_shuffle_ps::<0x44>(ab1, cd1),
                simd._mm512_shuffle_ps::<0xee>(ab1, cd1),
            ];
        }
        let even = |a, b| simd._mm512_shuffle_f32x4::<0x88>(a, b);
        let odd = |a, b| simd._mm512_shuffle_f32x4::<0xdd>(a, b);
        let mut columns = [[0.0; 16]; 16];
        for c in 0..4 {
            let [first, second, third, fourth] =
                [fours[0][c], fours[1][c], fours[2][c], fours[3][c]];
            let (low, high) = (even(first, second), even(third, fourth));
            columns[c] = cast(even(low, high));
            columns[c + 8] = cast(odd(low, high));
            let (low, high) = (odd(first, second), odd(third, fourth));
            columns[c + 4] = cast(even(low, high));
            columns[c + 12] = cast(odd(low, high));
        }
        columns
    }
}
