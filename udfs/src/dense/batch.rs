//! As many systems as a vector has lanes, solved together: each in a lane, so that nothing waits for the roots and
//! quotients of one system, and no vector is partly beyond a triangle.

mod interleave;

use super::LANES;
use super::system::{LEAST_PIVOT, PANEL, System};
use super::transpose::with_squares;
use interleave::Interleave;
use pulp::{Simd, WithSimd};

/// Rows that share the loading of a panel's.
const ROWS: usize = 3;

/// The room to decompose and solve systems of the same order.
pub struct Batch {
    /// Rows of the triangles, a multiple of [`PANEL`].
    count: usize,
    /// The triangles by rows: a vector has a number of each system. The right sides are the last row, which the
    /// decomposition turns into the solutions y of `Ly = b`.
    lower: Vec<f32>,
    /// The inverses of the diagonals.
    inverse: Vec<f32>,
}

/// Where the row begins in a triangle by rows.
const fn start(row: usize) -> usize {
    row * (row + 1) / 2
}

/// The first numbers of some rows of a triangle.
#[inline(always)]
fn heads<T, const ROWS: usize>(triangle: &[T], first: usize, count: usize) -> [&[T]; ROWS] {
    let mut heads = [&triangle[..0]; ROWS];
    for (at, head) in heads.iter_mut().enumerate() {
        *head = &triangle[start(first + at)..][..count];
    }
    heads
}

impl Batch {
    /// Room for systems whose first `unknowns` unknowns are wanted; the others stay as they are.
    pub fn new<S: Simd>(_: S, unknowns: usize) -> Self {
        let count = unknowns.next_multiple_of(PANEL);
        Self {
            count,
            lower: vec![0.0; start(count + 1) * S::F32_LANES],
            inverse: vec![0.0; count * S::F32_LANES],
        }
    }

    /// Solves systems, at most as many as a vector has lanes. Their matrices stay as they are.
    #[inline(always)]
    pub fn solve<S: Simd>(&mut self, simd: S, systems: &mut [System]) {
        simd.vectorize(Solve { batch: self, systems });
    }

    /// Decomposes the square on the diagonal of a panel, after the columns before it.
    #[inline(always)]
    fn decompose_square<S: Simd>(&mut self, simd: S, panel: usize, systems: &mut [System]) {
        let lanes = S::F32_LANES;
        let square = Square::new(simd, S::as_mut_simd_f32s(&mut self.lower).0, panel);
        S::as_mut_simd_f32s(&mut self.inverse[panel * lanes..][..PANEL * lanes])
            .0
            .copy_from_slice(&square.inverse);
        for left in &square.left {
            let mut values = [0.0; LANES];
            S::as_mut_simd_f32s(&mut values[..lanes]).0[0] = *left;
            // Not a number is not greater either.
            let values = systems.iter_mut().zip(values);
            values.for_each(|(system, value)| system.definite &= value > 0.0);
        }
    }

    /// Decomposes a panel's columns of the rows below it, after the columns before it and its square on the diagonal.
    #[inline(always)]
    fn decompose_rows<S: Simd>(&mut self, simd: S, panel: usize) {
        // The right sides are the last row.
        let rows = panel + PANEL..self.count + 1;
        let lanes = S::F32_LANES;
        let (above, below) = self.lower.split_at_mut(start(rows.start) * lanes);
        let (above, below) = (S::as_simd_f32s(above).0, S::as_mut_simd_f32s(below).0);
        let inverse = &S::as_simd_f32s(&self.inverse).0[panel..];
        let mut square = [[simd.splat_f32s(0.0); PANEL]; PANEL];
        for (at, row) in square.iter_mut().enumerate() {
            row[..at].copy_from_slice(&above[start(panel + at) + panel..][..at]);
            row[at] = inverse[at];
        }
        let of_panel = PanelRows { simd, panel, above, square };
        let mut row = rows.start;
        while row < rows.end {
            let below = &mut below[start(row) - start(rows.start)..];
            row += match rows.end - row {
                1 => of_panel.decompose::<1>(below, row),
                2 => of_panel.decompose::<2>(below, row),
                _ => of_panel.decompose::<ROWS>(below, row),
            };
        }
    }

    /// Solves `Lᵀx = y` for the unknowns of a panel, and takes what they are times out of those before them.
    #[inline(always)]
    fn solve_backwards<S: Simd>(&mut self, simd: S, panel: usize) {
        let lanes = S::F32_LANES;
        let (lower, solution) = self.lower.split_at_mut(start(self.count) * lanes);
        let solution = S::as_mut_simd_f32s(solution).0;
        let lower = S::as_simd_f32s(lower).0;
        let inverse = &S::as_simd_f32s(&self.inverse).0[panel..panel + PANEL];
        let mut values = [simd.splat_f32s(0.0); PANEL];
        for at in (0..PANEL).rev() {
            let mut value = solution[panel + at];
            for after in at + 1..PANEL {
                let factor = lower[start(panel + after) + panel + at];
                value = simd.negate_mul_add_f32s(factor, values[after], value);
            }
            values[at] = simd.mul_f32s(value, inverse[at]);
        }
        solution[panel..panel + PANEL].copy_from_slice(&values);
        let rows = heads::<_, PANEL>(lower, panel, panel);
        for (k, value) in solution[..panel].iter_mut().enumerate() {
            let mut sum = *value;
            for at in 0..PANEL {
                sum = simd.negate_mul_add_f32s(rows[at][k], values[at], sum);
            }
            *value = sum;
        }
    }
}

/// A function of its own, since it is wanted in several places and is long.
struct Solve<'a> {
    batch: &'a mut Batch,
    systems: &'a mut [System],
}

impl WithSimd for Solve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (Self { batch, systems }, lanes) = (self, S::F32_LANES);
        interleave(&mut batch.lower, batch.count, systems, lanes);
        systems.iter_mut().for_each(|system| system.definite = true);
        for panel in (0..batch.count).step_by(PANEL) {
            batch.decompose_square(simd, panel, systems);
            batch.decompose_rows(simd, panel);
        }
        for panel in (0..batch.count).step_by(PANEL).rev() {
            batch.solve_backwards(simd, panel);
        }
        let solutions = &batch.lower[start(batch.count) * lanes..][..batch.count * lanes];
        for (lane, system) in systems.iter_mut().enumerate() {
            let values = solutions.chunks_exact(lanes).map(|vector| vector[lane]);
            system.unknowns.iter_mut().zip(values).for_each(|(unknown, value)| *unknown = value);
        }
    }
}

/// Brings the numbers of systems side by side, a triangle by rows and then the right sides.
fn interleave(lower: &mut [f32], count: usize, systems: &[System], lanes: usize) {
    let right = lower[start(count) * lanes..].chunks_exact_mut(lanes).take(count);
    for (at, vector) in right.enumerate() {
        let values = vector.iter_mut().zip(systems);
        values.for_each(|(value, system)| *value = system.unknowns[at]);
    }
    with_squares(lanes, Interleave { lower, count, systems, lanes });
}

/// The decomposition of the square on the diagonal of a panel, which is in the triangle besides.
struct Square<S: Simd> {
    /// The inverses of the diagonal.
    inverse: [S::f32s; PANEL],
    /// By how much the pivots are larger than they must be.
    left: [S::f32s; PANEL],
}

impl<S: Simd> Square<S> {
    /// Decomposes the square, in a triangle whose columns before it are done.
    #[expect(
        clippy::needless_range_loop,
        reason = "with iterators, the sums leave their registers"
    )]
    #[inline(always)]
    fn new(simd: S, triangle: &mut [S::f32s], panel: usize) -> Self {
        let zero = simd.splat_f32s(0.0);
        let mut lower = [[zero; PANEL]; PANEL];
        for (at, row) in lower.iter_mut().enumerate() {
            row[..=at].copy_from_slice(&triangle[start(panel + at) + panel..][..=at]);
        }
        let mut least = [zero; PANEL];
        for at in 0..PANEL {
            least[at] = simd.mul_f32s(simd.splat_f32s(LEAST_PIVOT), lower[at][at]);
        }
        let rows = heads::<_, PANEL>(triangle, panel, panel);
        for before in 0..panel {
            for at in 0..PANEL {
                for column in 0..=at {
                    let (a, b) = (rows[at][before], rows[column][before]);
                    lower[at][column] = simd.negate_mul_add_f32s(a, b, lower[at][column]);
                }
            }
        }
        let (mut inverse, mut left) = ([zero; PANEL], [zero; PANEL]);
        for at in 0..PANEL {
            for column in 0..=at {
                let mut value = lower[at][column];
                for before in 0..column {
                    let (a, b) = (lower[at][before], lower[column][before]);
                    value = simd.negate_mul_add_f32s(a, b, value);
                }
                if column < at {
                    lower[at][column] = simd.mul_f32s(value, inverse[column]);
                } else {
                    left[at] = simd.sub_f32s(value, least[at]);
                    inverse[at] = simd.div_f32s(simd.splat_f32s(1.0), simd.sqrt_f32s(value));
                }
            }
        }
        for (at, row) in lower.iter().enumerate() {
            triangle[start(panel + at) + panel..][..at].copy_from_slice(&row[..at]);
        }
        Self { inverse, left }
    }
}

/// A panel whose square on the diagonal is decomposed.
struct PanelRows<'a, S: Simd> {
    simd: S,
    panel: usize,
    /// The rows up to the end of the panel.
    above: &'a [S::f32s],
    /// The square, with the inverses of its diagonal there.
    square: [[S::f32s; PANEL]; PANEL],
}

impl<S: Simd> PanelRows<'_, S> {
    /// Decomposes the panel's columns of some rows, the first of which `below` begins with. Returns how many.
    #[expect(
        clippy::needless_range_loop,
        reason = "with iterators, the sums leave their registers"
    )]
    #[inline(always)]
    fn decompose<const ROWS: usize>(&self, below: &mut [S::f32s], row: usize) -> usize {
        let Self { simd, panel, above, square } = self;
        let (simd, panel) = (*simd, *panel);
        let mut sums = [[simd.splat_f32s(0.0); PANEL]; ROWS];
        let place = |at: usize| start(row + at) - start(row);
        for at in 0..ROWS {
            sums[at].copy_from_slice(&below[place(at) + panel..][..PANEL]);
        }
        let columns = heads::<_, PANEL>(above, panel, panel);
        let mut rows = [&below[..panel]; ROWS];
        for at in 1..ROWS {
            rows[at] = &below[place(at)..][..panel];
        }
        for before in 0..panel {
            for column in 0..PANEL {
                let factor = columns[column][before];
                for at in 0..ROWS {
                    sums[at][column] =
                        simd.negate_mul_add_f32s(rows[at][before], factor, sums[at][column]);
                }
            }
        }
        for column in 0..PANEL {
            for at in 0..ROWS {
                let mut value = sums[at][column];
                for before in 0..column {
                    let factor = square[column][before];
                    value = simd.negate_mul_add_f32s(factor, sums[at][before], value);
                }
                sums[at][column] = simd.mul_f32s(value, square[column][column]);
            }
        }
        for at in 0..ROWS {
            below[place(at) + panel..][..PANEL].copy_from_slice(&sums[at]);
        }
        ROWS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::{Ahead, add_products, padded};
    use crate::random::starting_factors;
    use proptest::prelude::*;
    use pulp::{Arch, Scalar};

    /// Solves `(ZᵀZ + I)x = b` for a Z and a b of each system, together and one by one.
    struct BothWays {
        unknowns: usize,
        systems: usize,
        seed: u64,
        /// A system that has no solution.
        damaged: Option<usize>,
    }

    impl WithSimd for BothWays {
        type Output = Vec<(System, System)>;

        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let Self { unknowns, seed, damaged, .. } = self;
            let order = padded(unknowns);
            let system = |at: usize| {
                let mut system = System::new(order);
                (0..order).for_each(|row| system.matrix[row * (order + 1)] = 1.0);
                let panel = starting_factors(seed, 100 * at, 20, unknowns, order);
                let panel: Vec<_> = panel.iter().map(|value| value * 30.0).collect();
                add_products(simd, &mut system.matrix, None, &panel, order, Ahead::NOTHING);
                let right = starting_factors(seed, 100 * at + 50, 1, unknowns, order);
                system.unknowns.copy_from_slice(&right);
                if damaged == Some(at) {
                    system.matrix[0] = -1.0;
                }
                system
            };
            let mut together: Vec<_> = (0..self.systems.min(S::F32_LANES)).map(system).collect();
            let mut single = together.clone();
            let mut batch = Batch::new(simd, unknowns);
            // What is left of those before doesn't matter.
            batch.lower.fill(f32::NAN);
            batch.solve(simd, &mut together);
            for system in &mut single {
                system.solve(simd);
            }
            together.into_iter().zip(single).collect()
        }
    }

    proptest! {
        #[test]
        fn systems_are_solved_together_as_they_are_one_by_one(
            unknowns in 1usize..70,
            systems in 1usize..17,
            seed in any::<u64>(),
            damaged in prop::option::of(0usize..16),
        ) {
            let both = || BothWays { unknowns, systems, seed, damaged };
            for solved in [Arch::new().dispatch(both()), both().with_simd(Scalar)] {
                for (at, (together, single)) in solved.iter().enumerate() {
                    prop_assert_eq!(together.definite, damaged != Some(at));
                    prop_assert_eq!(single.definite, damaged != Some(at));
                    if single.definite {
                        for (a, b) in together.unknowns.iter().zip(&single.unknowns) {
                            prop_assert!((a - b).abs() < 1e-4, "{a} {b}");
                        }
                    }
                }
            }
        }
    }
}
