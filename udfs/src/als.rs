//! Alternating least squares: one half step, which solves every row of a block while the other side's factors
//! stay fixed.
//!
//! Implicit feedback follows Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback
//! Datasets" (ICDM 2008): every pair of user and item counts, an observed one with the confidence
//! `1 + alpha·|weight|`. A positive weight means the preference 1, a negative one the preference 0.
//! Explicit feedback fits the observed values only, with bias terms if asked for (Koren, Bell and
//! Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE Computer 2009).
//!
//! Factors are stored as `f32`. Normal equations are built and solved in `f32` where that is enough, see
//! [`HalfStep::run`].

mod axes;
mod common;
mod dual;
mod equations;
mod exact;
mod gradient;
mod nonnegative;
mod observations;
mod rows;
mod side;
mod subspace;

pub use axes::Axes;
pub use equations::Equations;
pub use side::{Enough, Side};

use crate::csr::Csr;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::ThreadPool;
use rows::{Part, Piece, Solve};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use thiserror::Error;

/// Why a half step failed.
#[derive(Debug, Error, PartialEq)]
pub enum AlsError {
    /// The normal equations of a row have no unique solution.
    #[error(
        "the equations of row {row} ({observations} observations) are singular: use a larger l2_reg"
    )]
    Singular {
        /// Dense number of the row.
        row: usize,
        /// Entries in the row.
        observations: usize,
    },
}

/// What the weights mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Feedback {
    /// Weights are evidence of preference.
    Implicit {
        /// How much confidence grows with a unit of weight.
        alpha: f64,
    },
    /// Weights are the values to predict.
    Explicit {
        /// Whether rows and columns have bias terms.
        bias: bool,
        /// The constant that every prediction starts from.
        mean: f64,
    },
}

impl Feedback {
    /// Whether rows carry a bias after their factors.
    pub fn has_bias(self) -> bool {
        matches!(self, Feedback::Explicit { bias: true, .. })
    }

    /// What an observation adds to the normal equations of its row: `confidence · z zᵀ` to the matrix and
    /// `pull · z` to the right side, where z is the other side's row with 1 in the place of its bias.
    /// Returns confidence and pull.
    fn observe(self, weight: f32, other: &[f32]) -> (f64, f64) {
        let weight = f64::from(weight);
        match self {
            Feedback::Implicit { alpha } => {
                let extra = alpha * weight.abs();
                (extra, if weight > 0.0 { 1.0 + extra } else { 0.0 })
            }
            Feedback::Explicit { bias: false, mean } => (1.0, weight - mean),
            Feedback::Explicit { bias: true, mean } => {
                (1.0, weight - mean - f64::from(other[other.len() - 1]))
            }
        }
    }

    /// Numbers that a row of factors takes: the factors, then the bias if there is one.
    pub fn width(self, factors: usize) -> usize {
        factors + usize::from(self.has_bias())
    }
}

/// How the equations of a row are solved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Solver {
    /// Exactly, by Cholesky decomposition.
    Exact,
    /// Exactly, with factors that are not negative (biases may be): block principal pivoting, of Kim and Park,
    /// "Fast Nonnegative Matrix Factorization" (SIAM Journal on Scientific Computing 33(6), 2011).
    NonNegative,
    /// By conjugate gradients, from the row's earlier factors on: Takács, Pilászy and Tikk, "Applications of the
    /// Conjugate Gradient Method for Implicit Feedback Collaborative Filtering" (RecSys 2011).
    ConjugateGradient {
        /// Steps, at least 1. Each touches every observation once.
        steps: usize,
    },
    /// Some factors at a time, exactly, while the others stay as they are: iALS++, of Rendle, Krichene, Zhang and
    /// Koren (arXiv 2110.14044).
    Subspace {
        /// Factors that are solved together, at least 1.
        factors: usize,
    },
}

impl Solver {
    /// Whether rows are solved from their earlier factors on.
    pub fn goes_on(self) -> bool {
        matches!(self, Solver::ConjugateGradient { .. } | Solver::Subspace { .. })
    }

    /// Whether it adds up the whole normal equations of a row.
    pub fn adds_up(self) -> bool {
        matches!(self, Solver::Exact | Solver::NonNegative)
    }
}

/// The weight of the penalty on a row's squared norm: `strength · (n + unobserved)^exponent` for a
/// row with `n` observations. This is the frequency-scaled regularisation of "Revisiting the
/// Performance of iALS on Item Recommendation Benchmarks" (arXiv 2110.14037), whose ν is `exponent`
/// and whose `α₀·|I|` is `unobserved`. With the exponent 0 it is plain L2, with 1 that of Zhou,
/// Wilkinson, Schreiber and Pan (AAIM 2008).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Regularization {
    /// The penalty of a row with the frequency 1.
    pub strength: f64,
    /// How much the penalty grows with the frequency, from 0 to 1.
    pub exponent: f64,
    /// What the unobserved entries of a row add to its frequency.
    pub unobserved: f64,
}

impl Regularization {
    /// The penalty of a row with this many observations.
    pub fn of_row(&self, observations: usize) -> f64 {
        self.strength * (observations as f64 + self.unobserved).powf(self.exponent)
    }
}

/// The side that stays fixed in a half step.
#[derive(Debug, Clone, Copy)]
pub struct Fixed<'a> {
    /// One row of [`Feedback::width`] numbers for each column of the block.
    pub rows: &'a [f32],
    /// The Gram matrix of those rows' factors, `factors × factors`, over all rows of the side.
    /// Unused for explicit feedback.
    pub gram: &'a [f64],
    /// The axes that the rows are along, see [`HalfStep::turns`]. `gram` is that of the rows before they were turned.
    pub axes: Option<&'a Axes>,
}

impl<'a> Fixed<'a> {
    /// Rows as they are, with the Gram matrix of their factors.
    pub fn new(rows: &'a [f32], gram: &'a [f64]) -> Self {
        Self { rows, gram, axes: None }
    }

    /// The row of a column.
    #[inline(always)]
    fn row(&self, column: u32, width: usize) -> &[f32] {
        &self.rows[column as usize * width..][..width]
    }

    /// The Gram matrix of the rows as they are.
    fn common_gram(&self) -> &[f64] {
        self.axes.map_or(self.gram, |axes| &axes.gram)
    }
}

/// What a block contributes to the loss and to the next half step, or all blocks of a side.
#[derive(Debug, Clone, PartialEq)]
pub struct Measures {
    /// Loss of the observed entries after the step. For implicit feedback this is the observed
    /// entries' part beyond what [`unobserved_loss`] counts for them.
    pub observed_loss: f64,
    /// Penalty of the block's rows.
    pub penalty: f64,
    /// Gram matrix of the block's new factors, `factors × factors`, row-major.
    pub gram: Vec<f64>,
}

impl Measures {
    /// Nothing yet, of rows of so many factors.
    pub fn new(factors: usize) -> Self {
        Self { observed_loss: 0.0, penalty: 0.0, gram: vec![0.0; factors * factors] }
    }

    /// How many numbers they are for rows of so many factors.
    pub fn len_of(factors: usize) -> usize {
        2 + factors * factors
    }

    /// All numbers, one after another.
    pub fn to_vec(&self) -> Vec<f64> {
        [self.observed_loss, self.penalty].into_iter().chain(self.gram.iter().copied()).collect()
    }

    /// What [`Self::to_vec`] has made numbers of.
    pub fn from_slice(numbers: &[f64]) -> Option<Self> {
        let [observed_loss, penalty, gram @ ..] = numbers else { return None };
        Some(Self { observed_loss: *observed_loss, penalty: *penalty, gram: gram.to_vec() })
    }

    /// The loss of both sides after a half step that came to these, after one of the `other` side.
    pub fn loss(&self, other: &Self, feedback: Feedback) -> f64 {
        let loss = self.observed_loss + self.penalty + other.penalty;
        match feedback {
            Feedback::Implicit { .. } => loss + unobserved_loss(&other.gram, &self.gram),
            Feedback::Explicit { .. } => loss,
        }
    }
}

/// Rows gathered at a time while normal equations are added up.
pub const CHUNK: usize = 512;

/// What observations of one row add to its normal equations: the lower triangle of a matrix by columns, with what is above
/// it left as it comes, then the right side, then the objective of a row of zeros.
#[derive(Debug, Clone, PartialEq)]
pub struct RowSums(Vec<f64>);

impl RowSums {
    /// How many numbers they are for rows of so many numbers.
    pub fn len_of(width: usize) -> usize {
        width * width + width + 1
    }

    /// Nothing, for rows of so many numbers.
    pub fn new(width: usize) -> Self {
        Self(vec![0.0; Self::len_of(width)])
    }

    /// As they were written: [`Self::len_of`] numbers.
    pub fn from_vec(numbers: Vec<f64>) -> Self {
        Self(numbers)
    }

    /// All numbers.
    pub fn into_vec(self) -> Vec<f64> {
        self.0
    }

    /// The matrix, by columns, the right side, and the objective of a row of zeros, of rows of so many numbers.
    fn parts(&self, width: usize) -> (&[f64], &[f64], f64) {
        let (matrix, rest) = self.0.split_at(width * width);
        let (target, squares) = rest.split_at(width);
        (matrix, target, squares.iter().sum())
    }

    /// Adds the sums of observations that come after these.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, value)| *sum += value);
    }
}

/// What the observations of some rows add up to, by the rows' dense numbers.
pub type KnownSums = HashMap<u32, RowSums>;

/// How one side is solved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HalfStep {
    /// What the weights mean.
    pub feedback: Feedback,
    /// The penalty of the rows that are solved.
    pub regularization: Regularization,
    /// How rows are solved.
    pub solver: Solver,
    /// Factors of a row.
    pub factors: usize,
}

/// What rows add to the loss.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Sums {
    /// The rows' objectives: for implicit feedback, over all pairs of the row.
    objective: f64,
    /// The penalties that are part of them.
    penalty: f64,
}

impl Sums {
    /// Adds what the rows that come after these add, one after another.
    fn add(&mut self, rows: &[Self]) {
        for row in rows {
            self.objective += row.objective;
            self.penalty += row.penalty;
        }
    }
}

/// Pieces of a block that threads solve one at a time: so many that none waits long for another that has the last.
const PIECES: u64 = 16;

/// Observations of a row, for each factor, on average and at most, so that there are so many rows with fewer observations than
/// factors that they make up for turning: where a few users have most of the observations, most of them have far less than
/// the average. To turn is a hundredth of the work (more where a state is read in parts, each of which is turned for itself), and
/// these rows may be half of it.
const OBSERVATIONS_WORTH_TURNING: u64 = 2;

/// With fewer factors, equations of as many unknowns are solved as fast: with 64, turning takes as much as it saves. With 128, a
/// half step of the users of "20M" (`bench/run als`) takes a seventh less.
const FACTORS_WORTH_TURNING: usize = 96;

impl HalfStep {
    /// Whether rows, of which there are so many with so many observations in all, are to be solved along the axes of the fixed
    /// side.
    pub fn turns(&self, rows: u64, observations: u64) -> bool {
        let Feedback::Implicit { .. } = self.feedback else { return false };
        match self.solver {
            // What must not be negative can't be turned.
            Solver::NonNegative => false,
            Solver::ConjugateGradient { .. } | Solver::Subspace { .. } => true,
            Solver::Exact => {
                self.factors >= FACTORS_WORTH_TURNING
                    && observations / rows.max(1) < OBSERVATIONS_WORTH_TURNING * self.factors as u64
            }
        }
    }

    /// Solves all rows of a block. `solution` has [`Feedback::width`] numbers a row: the factors that a row starts
    /// from, then those that were found. What a solver is exact for doesn't depend on the start.
    ///
    /// Rows are solved in `f32` with the widest vectors that the processor has; those whose equations are too
    /// close to singular for it, in `f64`.
    pub fn run(
        &self,
        fixed: Fixed<'_>,
        block: &Csr<f32>,
        solution: &mut [f32],
    ) -> Result<Measures, AlsError> {
        let mut sums = Sums::default();
        self.solve(fixed, block, &KnownSums::new(), solution, &mut sums)?;
        Ok(self.measure(fixed.gram, solution, &sums))
    }

    /// Adds observations of one row to its sums; their number is a multiple of [`CHUNK`], but for the last of the row.
    /// It is the same whether they are added together or in parts.
    pub fn add_to_row(&self, fixed: Fixed<'_>, observations: (&[u32], &[f32]), sums: &mut RowSums) {
        pulp::Arch::new().dispatch(Part { step: *self, fixed, observations, sums });
    }

    /// Solves some rows, and adds what they add to the loss to that of the rows before them. The observations of rows
    /// whose sums are `known` are not added up again by the solvers that add up normal equations: [`Solver::adds_up`].
    pub fn solve(
        &self,
        fixed: Fixed<'_>,
        block: &Csr<f32>,
        known: &KnownSums,
        solution: &mut [f32],
        sums: &mut Sums,
    ) -> Result<(), AlsError> {
        let mut losses = vec![Sums::default(); block.rows()];
        let (mut solved, rows) = (Ok(()), 0..block.rows());
        let (losses_of_all, solved_all) = (losses.as_mut_slice(), &mut solved);
        let piece =
            Piece { block, known, rows, solution, losses: losses_of_all, solved: solved_all };
        self.solve_pieces(fixed, std::iter::once(piece));
        solved?;
        sums.add(&losses);
        Ok(())
    }

    fn solve_pieces<'a>(&self, fixed: Fixed<'a>, pieces: impl Iterator<Item = Piece<'a>>) {
        let width = self.feedback.width(self.factors);
        pulp::Arch::new().dispatch(Solve { step: *self, fixed, width, pieces });
    }

    /// Solves the rows of blocks. It comes to the same as [`Self::solve`], to the last bit, by the threads of a pool, which
    /// must not be one that the caller is in. Of each block, there is what its rows start from among `solutions`, and its
    /// sums among `sums`.
    pub fn solve_together<'a>(
        &self,
        pool: &ThreadPool,
        fixed: Fixed<'a>,
        blocks: &[(&'a Csr<f32>, &'a KnownSums)],
        solutions: &mut [&mut [f32]],
        sums: &mut [Sums],
    ) -> Result<(), AlsError> {
        let width = self.feedback.width(self.factors);
        let rows: usize = blocks.iter().map(|(block, _)| block.rows()).sum();
        let mut losses = vec![Sums::default(); rows];
        let mut of_pieces = Vec::new();
        for ((block, known), solution) in blocks.iter().zip(solutions) {
            // An entry takes as long as the square of the factors, and the decomposition of a row as a third of their cube.
            let cost = |row: usize, entries: u64| {
                let known = known.contains_key(&(block.first_row + row as u32));
                self.factors as u64 / 3 + 1 + if known { 0 } else { entries }
            };
            let mut left = &mut **solution;
            for rows in block.pieces(PIECES, cost) {
                let solution = left.split_off_mut(..rows.len() * width).unwrap_or_default();
                of_pieces.push((*block, *known, rows, solution));
            }
        }
        let mut solved: Vec<_> = of_pieces.iter().map(|_| Ok(())).collect();
        let mut left = losses.as_mut_slice();
        let pieces = of_pieces.into_iter().zip(&mut solved);
        let pieces = pieces.map(|((block, known, rows, solution), solved)| {
            let losses = left.split_off_mut(..rows.len()).unwrap_or_default();
            Piece { block, known, rows, solution, losses, solved }
        });
        let pieces: Vec<_> = pieces.collect();
        let threads = pool.current_num_threads().min(pieces.len());
        let queue = Mutex::new(pieces.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        pool.in_place_scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|_| self.solve_pieces(fixed, std::iter::from_fn(next)));
            }
        });
        drop(queue);
        // Of several rows without a solution, the first is named, whichever was found first.
        solved.into_iter().collect::<Result<(), _>>()?;
        let mut losses = losses.as_slice();
        for ((block, _), sums) in blocks.iter().zip(sums) {
            let (of_block, rest) = losses.split_at(block.rows());
            sums.add(of_block);
            losses = rest;
        }
        Ok(())
    }

    /// What the rows of a block come to when all of them are solved. `gram` is that of the fixed side.
    pub fn measure(&self, gram: &[f64], solution: &[f32], sums: &Sums) -> Measures {
        let own = self::gram(solution, self.feedback.width(self.factors), self.factors);
        let mut observed_loss = sums.objective - sums.penalty;
        if let Feedback::Implicit { .. } = self.feedback {
            observed_loss -= unobserved_loss(&own, gram);
        }
        Measures { observed_loss, penalty: sums.penalty, gram: own }
    }
}

/// What a row and a column of the model predict for each other.
pub fn score(feedback: Feedback, factors: usize, row: &[f32], column: &[f32]) -> f64 {
    let product = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
    let inner: f64 = row[..factors].iter().zip(&column[..factors]).map(product).sum();
    match feedback {
        Feedback::Implicit { .. } => inner,
        Feedback::Explicit { bias: false, mean } => mean + inner,
        Feedback::Explicit { bias: true, mean } => {
            mean + f64::from(row[factors]) + f64::from(column[factors]) + inner
        }
    }
}

/// The sum of squared scores over all pairs of rows and columns, from the two sides' Gram
/// matrices: `Σ (x·y)² = ⟨XᵀX, YᵀY⟩`, which touches no pair.
pub fn unobserved_loss(gram: &[f64], other_gram: &[f64]) -> f64 {
    gram.iter().zip(other_gram).map(|(a, b)| a * b).sum()
}

/// The Gram matrix of `rows` of `width` numbers, over their first `factors` numbers.
pub fn gram(rows: &[f32], width: usize, factors: usize) -> Vec<f64> {
    let mut gram = vec![0.0; factors * factors];
    let mut chunk = Vec::with_capacity(CHUNK * factors);
    for rows in rows.chunks(CHUNK * width) {
        chunk.clear();
        for row in rows.chunks_exact(width) {
            chunk.extend(row[..factors].iter().map(|value| f64::from(*value)));
        }
        add_products(&mut gram, &chunk, factors);
    }
    for row in 0..factors {
        for column in 0..row {
            gram[row * factors + column] = gram[column * factors + row];
        }
    }
    gram
}

/// Adds `ZᵀZ` to the lower triangle, by columns, of `matrix`; `z` holds the rows of Z.
fn add_products(matrix: &mut [f64], z: &[f64], width: usize) {
    let count = z.len() / width;
    let transposed = MatRef::from_column_major_slice(z, width, count);
    triangular::matmul(
        MatMut::from_column_major_slice_mut(matrix, width, width),
        BlockStructure::TriangularLower,
        Accum::Add,
        transposed,
        BlockStructure::Rectangular,
        transposed.transpose(),
        BlockStructure::Rectangular,
        1.0,
        Par::Seq,
    );
}

#[cfg(test)]
mod tests;
