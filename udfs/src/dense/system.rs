//! One system of equations, decomposed and solved by itself.

use super::LANES;
use pulp::{Simd, WithSimd};

/// What must be left of a diagonal entry when it becomes a pivot, as a share of it: each digit that is lost
/// there is one that the solution has less.
pub(super) const LEAST_PIVOT: f32 = 1e-4;

/// Columns that are decomposed together.
pub(super) const PANEL: usize = 4;

/// Equations `Ax = b`, and the room to solve them.
#[derive(Debug, Clone)]
pub struct System {
    /// A, then what it is decomposed into.
    pub matrix: Vec<f32>,
    /// b, then x.
    pub unknowns: Vec<f32>,
    /// Whether A is positive definite, and not so close to singular that few of the digits would be right.
    pub definite: bool,
    /// The inverse of the decomposition's diagonal.
    inverse: Vec<f32>,
    /// y, when `Ly = b` is solved.
    halfway: Vec<f32>,
}

impl System {
    /// Equations of `order` unknowns, all zero.
    pub fn new(order: usize) -> Self {
        Self {
            matrix: vec![0.0; order * order],
            unknowns: vec![0.0; order],
            definite: false,
            inverse: vec![0.0; order],
            halfway: vec![0.0; order],
        }
    }

    /// Makes it equations of so many unknowns. What they are is not kept.
    pub fn set_order(&mut self, order: usize) {
        self.matrix.resize(order * order, 0.0);
        for numbers in [&mut self.unknowns, &mut self.inverse, &mut self.halfway] {
            numbers.resize(order, 0.0);
        }
    }

    /// Solves the equations: decomposes `A = LLᵀ` in place, then solves for the unknowns, in place too.
    #[inline(always)]
    pub fn solve<S: Simd>(&mut self, simd: S) {
        simd.vectorize(Solve(self));
    }

    /// Decomposes the columns of a panel, after those before them.
    #[inline(always)]
    fn decompose_panel<S: Simd>(&mut self, simd: S, panel: usize, order: usize) {
        let lanes = S::F32_LANES;
        let (done, rest) = self.matrix.split_at_mut(panel * order);
        let columns = &mut rest[..PANEL * order];
        let mut corner = Corner::default();
        let mut row = panel / lanes * lanes;
        // Their sums fit into registers: there are 32 of 16 lanes, and 16 of 8.
        let most = if lanes == 8 { 2 } else { 4 };
        while row < order {
            let rows = PanelRows { simd, done, columns, panel, row, order };
            let vectors = ((order - row) / lanes).min(most);
            match vectors {
                1 => rows.decompose::<1>(&mut corner),
                2 => rows.decompose::<2>(&mut corner),
                3 => rows.decompose::<3>(&mut corner),
                _ => rows.decompose::<4>(&mut corner),
            }
            row += vectors * lanes;
        }
        for at in 0..PANEL {
            // Not a number is not greater either.
            self.definite &= corner.pivots[at] > LEAST_PIVOT * self.inverse[panel + at];
            self.inverse[panel + at] = corner.inverse[at];
        }
    }

    /// Solves `Ly = b` for the unknowns of a panel, after those before them.
    #[inline(always)]
    fn solve_forwards<S: Simd>(&mut self, simd: S, panel: usize, order: usize) {
        let start = panel / S::F32_LANES;
        let columns = &self.matrix[panel * order..][..PANEL * order];
        let mut values = [0.0; PANEL];
        for at in 0..PANEL {
            let mut value = self.unknowns[panel + at];
            for before in 0..at {
                value -= columns[before * order + panel + at] * values[before];
            }
            values[at] = value * self.inverse[panel + at];
        }
        // Not among the unknowns: a vector that is loaded soon after a part of it was stored has to wait.
        self.halfway[panel..panel + PANEL].copy_from_slice(&values);
        let (others, _) = S::as_mut_simd_f32s(&mut self.unknowns);
        for (at, value) in values.iter().enumerate() {
            let factor = simd.splat_f32s(*value);
            let column = &S::as_simd_f32s(&columns[at * order..][..order]).0[start..];
            for (other, column) in others[start..].iter_mut().zip(column) {
                *other = simd.negate_mul_add_f32s(factor, *column, *other);
            }
        }
    }

    /// Solves `Lᵀx = y` for the unknowns of a panel, after those behind them.
    #[inline(always)]
    fn solve_backwards<S: Simd>(&mut self, simd: S, panel: usize, order: usize) {
        let columns = &self.matrix[panel * order..][..PANEL * order];
        let mut values = [0.0; PANEL];
        values.copy_from_slice(&self.halfway[panel..panel + PANEL]);
        let (start, before) = ((panel + PANEL) / S::F32_LANES, (panel + PANEL) % S::F32_LANES);
        let vectors = &S::as_simd_f32s(&self.unknowns).0[start..];
        // The unknowns before the end of the panel have no part in it.
        let from = S::as_simd_f32s(&FROM[before][..S::F32_LANES]).0[0];
        let first = vectors.first().map(|vector| simd.mul_f32s(from, *vector));
        let mut sums = [simd.splat_f32s(0.0); PANEL];
        for (at, sum) in sums.iter_mut().enumerate() {
            let column = &S::as_simd_f32s(&columns[at * order..][..order]).0[start..];
            let (Some(first), Some((column, rest))) = (first, column.split_first()) else {
                break;
            };
            *sum = simd.mul_f32s(first, *column);
            for (other, column) in vectors[1..].iter().zip(rest) {
                *sum = simd.mul_add_f32s(*other, *column, *sum);
            }
        }
        for at in (0..PANEL).rev() {
            values[at] -= simd.reduce_sum_f32s(sums[at]);
            for after in at + 1..PANEL {
                values[at] -= columns[at * order + panel + after] * values[after];
            }
            values[at] *= self.inverse[panel + at];
        }
        self.unknowns[panel..panel + PANEL].copy_from_slice(&values);
    }
}

/// A function of its own, since it is wanted in several places and is long.
struct Solve<'a>(&'a mut System);

impl WithSimd for Solve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(system) = self;
        let order = system.unknowns.len();
        system.definite = true;
        for (at, diagonal) in system.inverse.iter_mut().enumerate() {
            *diagonal = system.matrix[at * (order + 1)];
        }
        let panels = || (0..order).step_by(PANEL);
        for panel in panels() {
            system.decompose_panel(simd, panel, order);
        }
        // A panel of unknowns at a time, whose products don't wait for each other.
        for panel in panels() {
            system.solve_forwards(simd, panel, order);
        }
        for panel in panels().rev() {
            system.solve_backwards(simd, panel, order);
        }
    }
}

/// The decomposition of the square on the diagonal of a panel.
#[derive(Default)]
struct Corner {
    pivots: [f32; PANEL],
    inverse: [f32; PANEL],
    /// Below the diagonal, by columns.
    lower: [[f32; PANEL]; PANEL],
}

impl Corner {
    /// Decomposes the square whose columns these are.
    #[inline(always)]
    fn new(mut square: [[f32; PANEL]; PANEL]) -> Self {
        let mut corner = Self::default();
        for at in 0..PANEL {
            let pivot = square[at][at];
            let inverse = 1.0 / pivot.sqrt();
            corner.pivots[at] = pivot;
            corner.inverse[at] = inverse;
            let below = square[at].map(|value| value * inverse);
            corner.lower[at] = below;
            for (column, other) in square.iter_mut().enumerate().skip(at + 1) {
                let pairs = other.iter_mut().zip(&below);
                pairs.for_each(|(value, below_it)| *value -= below_it * below[column]);
            }
        }
        corner
    }
}

/// Ones from each place in a vector on, zeros before it.
const FROM: [[f32; LANES]; LANES] = {
    let mut from = [[1.0; LANES]; LANES];
    let mut at = 0;
    while at < LANES {
        let mut before = 0;
        while before < at {
            from[at][before] = 0.0;
            before += 1;
        }
        at += 1;
    }
    from
};

/// Some rows of the columns of a panel.
struct PanelRows<'a, S> {
    simd: S,
    /// The columns before the panel.
    done: &'a [f32],
    columns: &'a mut [f32],
    panel: usize,
    row: usize,
    order: usize,
}

impl<S: Simd> PanelRows<'_, S> {
    /// Decomposes the rows; the first of them make the corner that the others need.
    #[expect(
        clippy::needless_range_loop,
        reason = "with iterators, the sums leave their registers"
    )]
    #[inline(always)]
    fn decompose<const VECTORS: usize>(self, corner: &mut Corner) {
        let Self { simd, done, columns, panel, row, order } = self;
        let length = VECTORS * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; PANEL];
        for (at, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(S::as_simd_f32s(&columns[at * order + row..][..length]).0);
        }
        for other in done.chunks_exact(order) {
            let rows = S::as_simd_f32s(&other[row..row + length]).0;
            let factors = &other[panel..panel + PANEL];
            for at in 0..PANEL {
                let factor = simd.splat_f32s(factors[at]);
                for vector in 0..VECTORS {
                    sums[at][vector] =
                        simd.negate_mul_add_f32s(factor, rows[vector], sums[at][vector]);
                }
            }
        }
        let first = row <= panel;
        if first {
            let mut square = [[0.0; PANEL]; PANEL];
            for at in 0..PANEL {
                let column = &mut columns[at * order + row..][..length];
                S::as_mut_simd_f32s(column).0.copy_from_slice(&sums[at]);
                square[at].copy_from_slice(&column[panel - row..][..PANEL]);
            }
            *corner = Corner::new(square);
        }
        for at in 0..PANEL {
            for before in 0..at {
                let factor = simd.splat_f32s(corner.lower[before][at]);
                for vector in 0..VECTORS {
                    let other = sums[before][vector];
                    sums[at][vector] = simd.negate_mul_add_f32s(factor, other, sums[at][vector]);
                }
            }
            let scale = simd.splat_f32s(corner.inverse[at]);
            for sum in &mut sums[at] {
                *sum = simd.mul_f32s(scale, *sum);
            }
        }
        for (at, mut sums) in sums.into_iter().enumerate() {
            if first {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    let above = (panel - row + at).saturating_sub(vector * S::F32_LANES);
                    let from = S::as_simd_f32s(&FROM[above][..S::F32_LANES]).0[0];
                    *sum = simd.mul_f32s(from, *sum);
                }
            }
            let column = &mut columns[at * order + row..][..length];
            S::as_mut_simd_f32s(column).0.copy_from_slice(&sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ahead, add_products};
    use super::*;
    use proptest::prelude::*;
    use pulp::{Arch, Scalar};

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
            let mut system = System::new(order);
            (0..order).for_each(|at| system.matrix[at * (order + 1)] = 1.0);
            system.unknowns.copy_from_slice(self.right);
            add_products(simd, &mut system.matrix, None, self.panel, order, Ahead::NOTHING);
            system.solve(simd);
            system.definite.then_some(system.unknowns)
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
        let with = |between: f32| {
            let mut system = System::new(LANES);
            (0..LANES).for_each(|at| system.matrix[at * (LANES + 1)] = 1.0);
            system.matrix[1] = between;
            Arch::new().dispatch(Solve(&mut system));
            system.definite
        };
        assert!(with(0.9) && with(-0.99));
        assert!(!with(0.99999) && !with(1.0) && !with(1.5) && !with(f32::NAN));
    }
}
