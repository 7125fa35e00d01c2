//! The rows of a block, solved in single precision with the widest vectors that the processor has.

use super::exact::Exact;
use super::gradient::Gradient;
use super::subspace::Subspace;
use super::{AlsError, Fixed, HalfStep, KnownSums, RowSums, Solver, Sums};
use crate::csr::Csr;
use pulp::{Simd, WithSimd};

/// Solves all rows of a block.
pub(super) struct Rows<'a> {
    pub(super) step: HalfStep,
    pub(super) fixed: Fixed<'a>,
    pub(super) block: &'a Csr<f32>,
    pub(super) width: usize,
    pub(super) known: &'a KnownSums,
    pub(super) solution: &'a mut [f32],
    pub(super) sums: &'a mut Sums,
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
pub(super) trait SolveRow {
    /// Solves a row and returns its objective; nothing if its equations are singular. `solution` has what it starts
    /// from.
    fn solve<S: Simd>(&mut self, simd: S, row: &Row<'_>, solution: &mut [f32]) -> Option<f64>;
}

impl WithSimd for Rows<'_> {
    type Output = Result<(), AlsError>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let (feedback, width, fixed) = (self.step.feedback, self.width, self.fixed);
        match self.step.solver {
            Solver::Exact => self.by(simd, Exact::new(feedback, width, fixed, false)),
            Solver::NonNegative => self.by(simd, Exact::new(feedback, width, fixed, true)),
            Solver::ConjugateGradient { steps } => {
                self.by(simd, Gradient::new(feedback, width, fixed, steps))
            }
            Solver::Subspace { factors } => {
                self.by(simd, Subspace::new(feedback, width, fixed, factors))
            }
        }
    }
}

impl Rows<'_> {
    #[inline(always)]
    fn by<S: Simd>(self, simd: S, mut method: impl SolveRow) -> Result<(), AlsError> {
        for (row, solution) in self.solution.chunks_exact_mut(self.width).enumerate() {
            let (columns, weights) = self.block.row(row);
            let lambda = self.step.regularization.of_row(columns.len());
            let following = &self.block.columns[self.block.offsets[row] as usize..];
            let sums = self.known.get(&(self.block.first_row + row as u32));
            let row_to_solve = Row { columns, weights, following, sums, lambda };
            let objective = method.solve(simd, &row_to_solve, solution);
            self.sums.objective += objective.ok_or(AlsError::Singular {
                row: self.block.first_row as usize + row,
                observations: columns.len(),
            })?;
            let norm: f64 = solution.iter().map(|value| f64::from(*value).powi(2)).sum();
            self.sums.penalty += lambda * norm;
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
        let mut exact = Exact::new(self.step.feedback, width, self.fixed, false);
        exact.add_to(simd, self.observations, self.sums);
    }
}
