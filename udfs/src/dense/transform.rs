//! Rows times a matrix.

use super::padded;
use pulp::Simd;

/// Rows that share the loading of the matrix.
const ROWS: usize = 8;

/// A square matrix that rows are multiplied by, from the right.
#[derive(Debug, Clone, PartialEq)]
pub struct Transform {
    width: usize,
    /// Numbers from one row to the next.
    order: usize,
    numbers: Vec<f32>,
}

impl Transform {
    /// The matrix with so many columns, whose numbers are given row by row.
    pub fn new(width: usize, numbers: impl Iterator<Item = f32>) -> Self {
        let order = padded(width);
        let mut padded = vec![0.0; width * order];
        let places = padded.chunks_exact_mut(order).flat_map(|row| &mut row[..width]);
        places.zip(numbers).for_each(|(place, number)| *place = number);
        Self { width, order, numbers: padded }
    }

    /// Puts each of some rows times the matrix in its place. What becomes of a row doesn't depend on the others.
    #[inline(always)]
    pub fn apply<S: Simd>(&self, simd: S, rows: &mut [f32]) {
        let mut before = vec![0.0; ROWS * self.width];
        for rows in rows.chunks_mut(ROWS * self.width) {
            let before = &mut before[..rows.len()];
            before.copy_from_slice(rows);
            if rows.len() == ROWS * self.width {
                // Their sums fit into registers: there are 32 of 16 lanes, and 16 of 8.
                if S::F32_LANES == 16 {
                    self.multiply::<S, ROWS>(simd, before, rows);
                } else {
                    let (first, second) = rows.split_at_mut(ROWS / 2 * self.width);
                    let (before_first, before_second) = before.split_at(first.len());
                    self.multiply::<S, { ROWS / 2 }>(simd, before_first, first);
                    self.multiply::<S, { ROWS / 2 }>(simd, before_second, second);
                }
            } else {
                let singly = before.chunks_exact(self.width).zip(rows.chunks_exact_mut(self.width));
                for (before, row) in singly {
                    self.multiply::<S, 1>(simd, before, row);
                }
            }
        }
    }

    #[inline(always)]
    fn multiply<S: Simd, const ROWS: usize>(&self, simd: S, before: &[f32], rows: &mut [f32]) {
        let mut column = 0;
        while column < self.width {
            match (self.order - column) / S::F32_LANES {
                1 => column += self.tile::<S, ROWS, 1>(simd, before, column, rows),
                _ => column += self.tile::<S, ROWS, 2>(simd, before, column, rows),
            }
        }
    }

    /// Some vectors of columns of some rows. Returns how many columns.
    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &self,
        simd: S,
        before: &[f32],
        column: usize,
        rows: &mut [f32],
    ) -> usize {
        let (width, columns) = (self.width, VECTORS * S::F32_LANES);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        for (at, numbers) in self.numbers.chunks_exact(self.order).enumerate() {
            let vectors = S::as_simd_f32s(&numbers[column..column + columns]).0;
            for row in 0..ROWS {
                let factor = simd.splat_f32s(before[row * width + at]);
                for vector in 0..VECTORS {
                    sums[row][vector] =
                        simd.mul_add_f32s(vectors[vector], factor, sums[row][vector]);
                }
            }
        }
        let wanted = columns.min(width - column);
        for (row, sums) in rows.chunks_exact_mut(width).zip(&sums) {
            let row = &mut row[column..column + wanted];
            if wanted == columns {
                S::as_mut_simd_f32s(row).0.copy_from_slice(sums);
            } else {
                for (values, vector) in row.chunks_mut(S::F32_LANES).zip(sums) {
                    let mut numbers = [0.0; super::LANES];
                    S::as_mut_simd_f32s(&mut numbers[..S::F32_LANES]).0[0] = *vector;
                    values.copy_from_slice(&numbers[..values.len()]);
                }
            }
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::starting_factors;
    use proptest::prelude::*;
    use pulp::{Arch, Scalar, WithSimd};

    struct Apply<'a>(&'a Transform, Vec<f32>);

    impl WithSimd for Apply<'_> {
        type Output = Vec<f32>;

        fn with_simd<S: Simd>(mut self, simd: S) -> Vec<f32> {
            self.0.apply(simd, &mut self.1);
            self.1
        }
    }

    proptest! {
        #[test]
        fn rows_are_multiplied_with_vectors_of_every_width(
            width in 1usize..70,
            count in 0usize..20,
            seed in any::<u64>(),
        ) {
            let numbers = starting_factors(seed, 0, width, width, width);
            let rows = starting_factors(seed, 1000, count, width, width);
            let transform = Transform::new(width, numbers.iter().copied());
            let widest = Arch::new().dispatch(Apply(&transform, rows.clone()));
            let narrowest = Apply(&transform, rows.clone()).with_simd(Scalar);
            for (at, row) in rows.chunks_exact(width).enumerate() {
                for column in 0..width {
                    let product = |(at, value): (usize, &f32)| {
                        f64::from(*value) * f64::from(numbers[at * width + column])
                    };
                    let expected: f64 = row.iter().enumerate().map(product).sum();
                    for found in [&widest, &narrowest] {
                        let found = f64::from(found[at * width + column]);
                        prop_assert!((found - expected).abs() < 1e-7, "{found} {expected}");
                    }
                }
                // Alone, it becomes the same.
                let alone = Arch::new().dispatch(Apply(&transform, row.to_vec()));
                prop_assert_eq!(&alone, &widest[at * width..][..width]);
            }
        }
    }
}
