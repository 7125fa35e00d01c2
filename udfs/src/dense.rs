//! Small dense linear algebra in single precision, for many small systems: the products of a panel with
//! itself, and the Cholesky decomposition.
//!
//! Matrices are symmetric, by columns, and only their lower triangles count. Their order is a multiple of
//! [`LANES`], so that every column is made of whole vectors.

use pulp::Simd;

/// Every order is a multiple of this: the numbers of the widest vector.
pub const LANES: usize = 16;

/// What must be left of a diagonal entry when it becomes a pivot, as a share of it: each digit that is lost
/// there is one that the solution has less.
const LEAST_PIVOT: f32 = 1e-4;

/// Columns that are decomposed together.
const PANEL: usize = 4;

/// `order`, or the next multiple of [`LANES`].
pub fn padded(order: usize) -> usize {
    order.next_multiple_of(LANES)
}

#[inline(always)]
fn load<S: Simd>(from: &[f32], vector: usize) -> S::f32s {
    S::as_simd_f32s(from).0[vector]
}

/// Adds `ZᵀZ` to the lower triangle of `matrix`; `panel` holds the rows of Z, each of `order` numbers.
#[inline(always)]
pub fn add_products<S: Simd>(simd: S, matrix: &mut [f32], panel: &[f32], order: usize) {
    match S::F32_LANES {
        16 => add_widest(simd, matrix, panel, order),
        8 => add_squares::<S, 8>(simd, matrix, panel, order),
        4 => add_squares::<S, 4>(simd, matrix, panel, order),
        _ => add_squares::<S, 1>(simd, matrix, panel, order),
    }
}

/// With 16 lanes and 32 registers: as many vectors of rows as there are below the diagonal, up to four, by as
/// many columns as the registers hold. A product needs its row and its column loaded; in a square tile of
/// one vector of rows there would be a load for each product.
#[inline(always)]
fn add_widest<S: Simd>(simd: S, matrix: &mut [f32], panel: &[f32], order: usize) {
    for diagonal in (0..order).step_by(16) {
        let mut row = diagonal;
        while row < order {
            let mut add = Tile { simd, matrix: &mut *matrix, panel, order, row, column: diagonal };
            let vectors = ((order - row) / 16).min(4);
            match vectors {
                1 => add.columns::<1, 16>(),
                2 => {
                    add.columns::<2, 8>();
                    add.columns::<2, 8>();
                }
                3 => {
                    add.columns::<3, 8>();
                    add.columns::<3, 8>();
                }
                _ => {
                    add.columns::<4, 6>();
                    add.columns::<4, 6>();
                    add.columns::<4, 4>();
                }
            }
            row += vectors * 16;
        }
    }
}

/// The matrix in square tiles as wide as a vector.
#[inline(always)]
fn add_squares<S: Simd, const LANES: usize>(
    simd: S,
    matrix: &mut [f32],
    panel: &[f32],
    order: usize,
) {
    for row in (0..order).step_by(LANES) {
        for column in (0..=row).step_by(LANES) {
            let mut add = Tile { simd, matrix: &mut *matrix, panel, order, row, column };
            add.columns::<1, LANES>();
        }
    }
}

/// Where the products go that are added up in registers next.
struct Tile<'a, S> {
    simd: S,
    matrix: &'a mut [f32],
    panel: &'a [f32],
    order: usize,
    row: usize,
    column: usize,
}

impl<S: Simd> Tile<'_, S> {
    /// Adds some vectors of rows by some columns, and moves on to the columns after them.
    #[inline(always)]
    fn columns<const VECTORS: usize, const COLUMNS: usize>(&mut self) {
        let (simd, rows) = (self.simd, VECTORS * S::F32_LANES);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; COLUMNS];
        for z in self.panel.chunks_exact(self.order) {
            let vectors = S::as_simd_f32s(&z[self.row..self.row + rows]).0;
            let columns = &z[self.column..self.column + COLUMNS];
            for at in 0..COLUMNS {
                let column = simd.splat_f32s(columns[at]);
                for vector in 0..VECTORS {
                    sums[at][vector] = simd.mul_add_f32s(vectors[vector], column, sums[at][vector]);
                }
            }
        }
        for (at, sums) in sums.into_iter().enumerate() {
            let out = &mut self.matrix[(self.column + at) * self.order + self.row..][..rows];
            let out = S::as_mut_simd_f32s(out).0;
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = simd.add_f32s(*out, sum);
            }
        }
        self.column += COLUMNS;
    }
}

/// Decomposes `A = LLᵀ` in place, the inverse of L's diagonal in `inverse`. False if A is not positive
/// definite, or so close to singular that few of the digits would be right.
#[inline(always)]
pub fn decompose<S: Simd>(simd: S, matrix: &mut [f32], inverse: &mut [f32], order: usize) -> bool {
    let lanes = S::F32_LANES;
    for (at, diagonal) in inverse.iter_mut().enumerate() {
        *diagonal = matrix[at * (order + 1)];
    }
    for panel in (0..order).step_by(PANEL) {
        let (done, rest) = matrix.split_at_mut(panel * order);
        let columns = &mut rest[..PANEL * order];
        let mut row = panel / lanes * lanes;
        while row < order {
            match (order - row) / lanes {
                0..=1 => {
                    subtract::<S, 1>(simd, done, columns, panel, row, order);
                    row += lanes;
                }
                2..=3 => {
                    subtract::<S, 2>(simd, done, columns, panel, row, order);
                    row += 2 * lanes;
                }
                _ => {
                    subtract::<S, 4>(simd, done, columns, panel, row, order);
                    row += 4 * lanes;
                }
            }
        }
        for at in 0..PANEL {
            let diagonal = panel + at;
            let (before, column) = columns.split_at_mut(at * order);
            let column = &mut column[..order];
            let start = panel / lanes;
            for other in before.chunks_exact(order) {
                let factor = simd.splat_f32s(other[diagonal]);
                let other = &S::as_simd_f32s(other).0[start..];
                let column = &mut S::as_mut_simd_f32s(column).0[start..];
                for (value, other) in column.iter_mut().zip(other) {
                    *value = simd.negate_mul_add_f32s(factor, *other, *value);
                }
            }
            let pivot = column[diagonal];
            // Not a number is not greater either.
            let enough = pivot > LEAST_PIVOT * inverse[diagonal];
            if !enough {
                return false;
            }
            let scale = 1.0 / pivot.sqrt();
            inverse[diagonal] = scale;
            let factor = simd.splat_f32s(scale);
            for value in &mut S::as_mut_simd_f32s(column).0[start..] {
                *value = simd.mul_f32s(factor, *value);
            }
            column[diagonal / lanes * lanes..diagonal].fill(0.0);
        }
    }
    true
}

/// Subtracts from some rows of a panel's columns what the columns before them account for.
#[inline(always)]
fn subtract<S: Simd, const VECTORS: usize>(
    simd: S,
    done: &[f32],
    columns: &mut [f32],
    panel: usize,
    row: usize,
    order: usize,
) {
    let lanes = S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; PANEL];
    for (at, sums) in sums.iter_mut().enumerate() {
        let column = &columns[at * order + row..][..VECTORS * lanes];
        for (vector, sum) in sums.iter_mut().enumerate() {
            *sum = load::<S>(column, vector);
        }
    }
    for other in done.chunks_exact(order) {
        let rows = S::as_simd_f32s(&other[row..row + VECTORS * lanes]).0;
        let factors = &other[panel..panel + PANEL];
        for at in 0..PANEL {
            let factor = simd.splat_f32s(factors[at]);
            for vector in 0..VECTORS {
                sums[at][vector] = simd.negate_mul_add_f32s(factor, rows[vector], sums[at][vector]);
            }
        }
    }
    for (at, sums) in sums.into_iter().enumerate() {
        let column = &mut columns[at * order + row..][..VECTORS * lanes];
        for (vector, sum) in sums.into_iter().enumerate() {
            S::as_mut_simd_f32s(column).0[vector] = sum;
        }
    }
}

/// Solves `LLᵀx = b` in place. A panel of unknowns at a time, whose products don't wait for each other.
#[inline(always)]
pub fn solve<S: Simd>(simd: S, matrix: &[f32], inverse: &[f32], x: &mut [f32], order: usize) {
    let panels = matrix.chunks_exact(PANEL * order).zip(inverse.chunks_exact(PANEL));
    for (panel, (columns, inverse)) in panels.clone().enumerate() {
        let first = panel * PANEL;
        let start = first / S::F32_LANES;
        let mut values = [0.0; PANEL];
        for at in 0..PANEL {
            let mut value = x[first + at];
            for before in 0..at {
                value -= columns[before * order + first + at] * values[before];
            }
            values[at] = value * inverse[at];
        }
        let (others, _) = S::as_mut_simd_f32s(x);
        for (at, value) in values.iter().enumerate() {
            let factor = simd.splat_f32s(*value);
            let column = &S::as_simd_f32s(&columns[at * order..][..order]).0[start..];
            for (other, column) in others[start..].iter_mut().zip(column) {
                *other = simd.negate_mul_add_f32s(factor, *column, *other);
            }
        }
        x[first..first + PANEL].copy_from_slice(&values);
    }
    for (panel, (columns, inverse)) in panels.enumerate().rev() {
        let first = panel * PANEL;
        let start = first / S::F32_LANES;
        let mut values = [0.0; PANEL];
        values.copy_from_slice(&x[first..first + PANEL]);
        x[first..first + PANEL].fill(0.0);
        let mut sums = [simd.splat_f32s(0.0); PANEL];
        for (at, sum) in sums.iter_mut().enumerate() {
            let column = &S::as_simd_f32s(&columns[at * order..][..order]).0[start..];
            for (other, column) in S::as_simd_f32s(x).0[start..].iter().zip(column) {
                *sum = simd.mul_add_f32s(*other, *column, *sum);
            }
        }
        for at in (0..PANEL).rev() {
            values[at] -= simd.reduce_sum_f32s(sums[at]);
            for after in at + 1..PANEL {
                values[at] -= columns[at * order + first + after] * values[after];
            }
            values[at] *= inverse[at];
        }
        x[first..first + PANEL].copy_from_slice(&values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pulp::{Arch, Scalar, WithSimd};

    /// Solves `(ZᵀZ + I)x = b`; nothing if it can't be decomposed.
    struct Regression<'a> {
        panel: &'a [f32],
        right: &'a [f32],
        order: usize,
    }

    impl WithSimd for Regression<'_> {
        type Output = Option<Vec<f32>>;

        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let order = self.order;
            let mut matrix = vec![0.0; order * order];
            (0..order).for_each(|at| matrix[at * (order + 1)] = 1.0);
            let (mut inverse, mut x) = (vec![0.0; order], self.right.to_vec());
            add_products(simd, &mut matrix, self.panel, order);
            decompose(simd, &mut matrix, &mut inverse, order).then(|| {
                solve(simd, &matrix, &inverse, &mut x, order);
                x
            })
        }
    }

    proptest! {
        #[test]
        fn equations_are_solved_with_vectors_of_every_width(
            vectors in 1usize..6,
            rows in 0usize..20,
            seed in any::<u64>(),
        ) {
            let order = vectors * LANES;
            let panel = crate::random::starting_factors(seed, 0, rows, order, order);
            let panel: Vec<f32> = panel.iter().map(|value| value * 30.0).collect();
            let right = crate::random::starting_factors(seed, 1000, 1, order, order);
            let regression = || Regression { panel: &panel, right: &right, order };
            let widest = Arch::new().dispatch(regression()).unwrap();
            let narrowest = regression().with_simd(Scalar).unwrap();
            for x in [widest, narrowest] {
                for row in 0..order {
                    let inner = |z: &[f32]| -> f64 {
                        z.iter().zip(&x).map(|(z, x)| f64::from(*z) * f64::from(*x)).sum()
                    };
                    let products: f64 = panel
                        .chunks_exact(order)
                        .map(|z| f64::from(z[row]) * inner(z))
                        .sum();
                    let left = f64::from(x[row]) + products;
                    prop_assert!((left - f64::from(right[row])).abs() < 1e-4, "{left} {}", right[row]);
                }
            }
        }
    }

    #[test]
    fn what_is_almost_singular_is_not_decomposed() {
        let mut matrix = vec![0.0; LANES * LANES];
        (0..LANES).for_each(|at| matrix[at * (LANES + 1)] = 1.0);
        let mut inverse = vec![0.0; LANES];
        let mut with = |between: f32| {
            struct Decompose<'a>(&'a mut [f32], &'a mut [f32]);
            impl WithSimd for Decompose<'_> {
                type Output = bool;
                fn with_simd<S: Simd>(self, simd: S) -> bool {
                    decompose(simd, self.0, self.1, LANES)
                }
            }
            let mut matrix = matrix.clone();
            matrix[1] = between;
            Arch::new().dispatch(Decompose(&mut matrix, &mut inverse))
        };
        assert!(with(0.9) && with(-0.99));
        assert!(!with(0.99999) && !with(1.0) && !with(1.5) && !with(f32::NAN));
    }
}
