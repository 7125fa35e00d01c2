//! The rows of a block, solved in single precision with the widest vectors that the processor has.

use super::exact::Exact;
use super::gradient::Gradient;
use super::subspace::Subspace;
use super::{AlsError, Fixed, HalfStep, KnownSums, Regularization, RowSums, Solver, Sums};
use crate::csr::Csr;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Some rows of a block.
pub(super) struct Piece<'a> {
    pub(super) block: &'a Csr<f32>,
    pub(super) known: &'a KnownSums,
    /// Which of the block's rows.
    pub(super) rows: Range<usize>,
    /// What these rows start from, and then what was found.
    pub(super) solution: &'a mut [f32],
    /// What each of these rows adds to the loss.
    pub(super) losses: &'a mut [Sums],
    /// Whether all of them have a solution.
    pub(super) solved: &'a mut Result<(), AlsError>,
}

/// Solves pieces of blocks, one after another, in the same room.
pub(super) struct Solve<'a, P> {
    pub(super) step: HalfStep,
    pub(super) fixed: Fixed<'a>,
    pub(super) width: usize,
    pub(super) pieces: P,
}

/// A row that is to be solved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) columns: &'a [u32],
    pub(super) weights: &'a [f32],
    /// The columns of the row and of those after it.
    pub(super) following: &'a [u32],
    /// What the observations add up to, if that is known.
    pub(super) sums: Option<&'a RowSums>,
    /// The weight of the penalty.
    pub(super) lambda: f64,
}

/// A way of solving rows.
pub(super) trait SolveRows {
    /// How many rows it solves together, at most.
    fn together(&self) -> usize;

    /// Solves some rows, with what they start from in `solutions`, and finds their objectives. If the equations of one
    /// are singular, its place among them.
    fn solve<S: Simd>(
        &mut self,
        simd: S,
        rows: &[Row<'_>],
        solutions: &mut [f32],
        objectives: &mut [f64],
    ) -> Result<(), usize>;
}

/// A way of solving one row.
pub(super) trait SolveRow {
    /// Solves a row and returns its objective; nothing if its equations are singular. `solution` has what it starts
    /// from.
    fn solve_row<S: Simd>(&mut self, simd: S, row: &Row<'_>, solution: &mut [f32]) -> Option<f64>;
}

impl<M: SolveRow> SolveRows for M {
    fn together(&self) -> usize {
        1
    }

    #[inline(always)]
    fn solve<S: Simd>(
        &mut self,
        simd: S,
        rows: &[Row<'_>],
        solutions: &mut [f32],
        objectives: &mut [f64],
    ) -> Result<(), usize> {
        for (row, objective) in rows.iter().zip(objectives) {
            *objective = self.solve_row(simd, row, solutions).ok_or(0usize)?;
        }
        Ok(())
    }
}

impl<'a, P: Iterator<Item = Piece<'a>>> WithSimd for Solve<'a, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (feedback, width, fixed) = (self.step.feedback, self.width, self.fixed);
        match self.step.solver {
            Solver::Exact => self.by(simd, Exact::new(simd, feedback, width, fixed, false)),
            Solver::NonNegative => self.by(simd, Exact::new(simd, feedback, width, fixed, true)),
            Solver::ConjugateGradient { steps } => {
                self.by(simd, Gradient::new(feedback, width, fixed, steps));
            }
            Solver::Subspace { factors } => {
                self.by(simd, Subspace::new(feedback, width, fixed, factors));
            }
        }
    }
}

impl<'a, P: Iterator<Item = Piece<'a>>> Solve<'a, P> {
    #[inline(always)]
    fn by<S: Simd>(self, simd: S, mut method: impl SolveRows) {
        for mut piece in self.pieces {
            *piece.solved = piece.solve(simd, &mut method, self.step.regularization, self.width);
        }
    }
}

impl Piece<'_> {
    #[inline(always)]
    fn solve<S: Simd>(
        &mut self,
        simd: S,
        method: &mut impl SolveRows,
        regularization: Regularization,
        width: usize,
    ) -> Result<(), AlsError> {
        let (block, known) = (self.block, self.known);
        let row_to_solve = |row: usize| {
            let (columns, weights) = block.row(row);
            let following = &block.columns[block.offsets[row] as usize..];
            let sums = known.get(&(block.first_row + row as u32));
            let lambda = regularization.of_row(columns.len());
            Row { columns, weights, following, sums, lambda }
        };
        let together = method.together();
        let mut rows = Vec::with_capacity(together);
        let mut objectives = vec![0.0; together];
        let mut first = self.rows.start;
        let some = self.solution.chunks_mut(together * width);
        for (solutions, losses) in some.zip(self.losses.chunks_mut(together)) {
            let count = losses.len();
            rows.clear();
            rows.extend((first..first + count).map(row_to_solve));
            let objectives = &mut objectives[..count];
            method.solve(simd, &rows, solutions, objectives).map_err(|place| {
                AlsError::Singular {
                    row: block.first_row as usize + first + place,
                    observations: rows[place].columns.len(),
                }
            })?;
            let solved = rows.iter().zip(solutions.chunks_exact(width)).zip(objectives);
            for (loss, ((row, solution), objective)) in losses.iter_mut().zip(solved) {
                let norm: f64 = solution.iter().map(|value| f64::from(*value).powi(2)).sum();
                *loss = Sums { objective: *objective, penalty: row.lambda * norm };
            }
            first += count;
        }
        Ok(())
    }
}

/// Adds observations of a row to its sums.
pub(super) struct Part<'a> {
    pub(super) step: HalfStep,
    pub(super) fixed: Fixed<'a>,
    pub(super) observations: (&'a [u32], &'a [f32]),
    pub(super) sums: &'a mut RowSums,
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.step.feedback.width(self.step.factors);
        let mut exact = Exact::new(simd, self.step.feedback, width, self.fixed, false);
        exact.add_to(simd, self.observations, self.sums);
    }
}
