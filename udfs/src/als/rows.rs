//! The rows of a block, solved in single precision with the widest vectors that the processor has.

use super::exact::Exact;
use super::gradient::Gradient;
use super::subspace::Subspace;
use super::{AlsError, Fixed, HalfStep, KnownSums, RowSums, Solver, Sums};
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
    /// Its place among the rows of the piece.
    pub(super) place: usize,
    pub(super) columns: &'a [u32],
    pub(super) weights: &'a [f32],
    /// The columns of the row and of those after it.
    pub(super) following: &'a [u32],
    /// What the observations add up to, if that is known.
    pub(super) sums: Option<&'a RowSums>,
    /// The weight of the penalty.
    pub(super) lambda: f64,
}

/// What was found of a piece.
pub(super) struct Solved<'a> {
    width: usize,
    solution: &'a mut [f32],
    losses: &'a mut [Sums],
    /// The place of the first row without a solution.
    singular: Option<usize>,
}

impl Solved<'_> {
    /// What a row starts from, and where its solution goes.
    #[inline(always)]
    pub(super) fn row(&mut self, row: &Row<'_>) -> &mut [f32] {
        &mut self.solution[row.place * self.width..][..self.width]
    }

    /// The solution of a row is in its place, and comes to this objective.
    #[inline(always)]
    pub(super) fn done(&mut self, row: &Row<'_>, objective: f64) {
        let norm: f64 = self.row(row).iter().map(|value| f64::from(*value).powi(2)).sum();
        self.losses[row.place] = Sums { objective, penalty: row.lambda * norm };
    }

    /// The equations of a row have no unique solution.
    #[cold]
    pub(super) fn is_singular(&mut self, row: &Row<'_>) {
        // They may be found in another order than the rows'.
        let place = self.singular.map_or(row.place, |first| first.min(row.place));
        self.singular = Some(place);
    }
}

/// A way of solving rows.
pub(super) trait SolveRows<'a> {
    /// Takes a row, to solve it now or with others that come after it. True if there are enough to solve them.
    fn take<S: Simd>(&mut self, simd: S, row: Row<'a>, solved: &mut Solved<'_>) -> bool;

    /// Solves what was taken: where there are enough, or all.
    fn solve<S: Simd>(&mut self, simd: S, all: bool, solved: &mut Solved<'_>);
}

/// A way of solving one row.
pub(super) trait SolveRow {
    /// Solves a row and returns its objective; nothing if its equations are singular. `solution` has what it starts
    /// from.
    fn solve_row<S: Simd>(&mut self, simd: S, row: &Row<'_>, solution: &mut [f32]) -> Option<f64>;
}

impl<'a, M: SolveRow> SolveRows<'a> for M {
    #[inline(always)]
    fn take<S: Simd>(&mut self, simd: S, row: Row<'a>, solved: &mut Solved<'_>) -> bool {
        match self.solve_row(simd, &row, solved.row(&row)) {
            Some(objective) => solved.done(&row, objective),
            None => solved.is_singular(&row),
        }
        false
    }

    #[inline(always)]
    fn solve<S: Simd>(&mut self, _: S, _: bool, _: &mut Solved<'_>) {}
}

impl<'a, P: Iterator<Item = Piece<'a>>> WithSimd for Solve<'a, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (feedback, width, fixed) = (self.step.feedback, self.width, self.fixed);
        match self.step.solver {
            Solver::Exact => {
                let method = Exact::new(simd, feedback, width, fixed, false);
                simd.vectorize(By { solve: self, method });
            }
            Solver::NonNegative => {
                let method = Exact::new(simd, feedback, width, fixed, true);
                simd.vectorize(By { solve: self, method });
            }
            Solver::ConjugateGradient { steps } => {
                let method = Gradient::new(feedback, width, fixed, steps);
                simd.vectorize(By { solve: self, method });
            }
            Solver::Subspace { factors } => {
                let method = Subspace::new(feedback, width, fixed, factors);
                simd.vectorize(By { solve: self, method });
            }
        }
    }
}

/// Solves pieces in one of the ways: a function for each.
struct By<'a, P, M> {
    solve: Solve<'a, P>,
    method: M,
}

impl<'a, P: Iterator<Item = Piece<'a>>, M: SolveRows<'a>> WithSimd for By<'a, P, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { solve: Solve { step, fixed, width, pieces }, mut method } = self;
        for piece in pieces {
            if let (Some(axes), true) = (fixed.axes, step.solver.goes_on()) {
                axes.turn(piece.solution);
            }
            let (solution, losses) = (&mut *piece.solution, piece.losses);
            let mut solved = Solved { width, solution, losses, singular: None };
            let (block, rows) = (piece.block, piece.rows);
            let mut places = rows.clone().enumerate();
            // Both take much code, which is here once.
            loop {
                let next = places.next();
                let all = next.is_none();
                let enough = match next {
                    Some((place, row)) => {
                        let (columns, weights) = block.row(row);
                        let following = &block.columns[block.offsets[row] as usize..];
                        let sums = piece.known.get(&(block.first_row + row as u32));
                        let lambda = step.regularization.of_row(columns.len());
                        let row = Row { place, columns, weights, following, sums, lambda };
                        method.take(simd, row, &mut solved)
                    }
                    None => true,
                };
                if enough {
                    method.solve(simd, all, &mut solved);
                }
                if all {
                    break;
                }
            }
            if let Some(place) = solved.singular {
                let (row, first) = (rows.start + place, block.first_row as usize);
                let observations = block.row(row).0.len();
                *piece.solved = Err(AlsError::Singular { row: first + row, observations });
            }
            if let Some(axes) = fixed.axes {
                axes.turn_back(piece.solution);
            }
        }
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
