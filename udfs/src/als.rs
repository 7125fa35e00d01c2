//! Alternating least squares: one half step, which solves every row of a block exactly while the
//! other side's factors stay fixed.
//!
//! Implicit feedback follows Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback
//! Datasets" (ICDM 2008): every pair of user and item counts, an observed one with the confidence
//! `1 + alpha·|weight|`. A positive weight means the preference 1, a negative one the preference 0.
//! Explicit feedback fits the observed values only, with bias terms if asked for (Koren, Bell and
//! Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE Computer 2009).
//!
//! Factors are stored as `f32`. Normal equations are built and solved in `f32` where that is enough, see
//! [`half_step`].

mod equations;
mod rows;

pub use equations::Equations;

use crate::csr::Csr;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};
use rows::Rows;
use serde::{Deserialize, Serialize};
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

    /// What an observation adds to the normal equations of its row: `scale² · z zᵀ` to the matrix and
    /// `pull · z` to the right side, where z is the other side's row with 1 in the place of its bias.
    /// Returns scale and pull.
    fn observe(self, weight: f32, other: &[f32]) -> (f64, f64) {
        let weight = f64::from(weight);
        match self {
            Feedback::Implicit { alpha } => {
                let extra = alpha * weight.abs();
                (extra.sqrt(), if weight > 0.0 { 1.0 + extra } else { 0.0 })
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
}

/// What a block contributes to the loss and to the next half step.
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

/// Rows gathered at a time while normal equations are added up.
const CHUNK: usize = 512;

/// Solves all rows of a block. `solution` receives [`Feedback::width`] numbers a row.
///
/// Rows are solved in `f32` with the widest vectors that the processor has; those whose equations are too
/// close to singular for it, in `f64`.
pub fn half_step(
    feedback: Feedback,
    regularization: &Regularization,
    factors: usize,
    fixed: Fixed<'_>,
    block: &Csr<f32>,
    solution: &mut [f32],
) -> Result<Measures, AlsError> {
    let width = feedback.width(factors);
    let rows = Rows { feedback, regularization, fixed, block, width, solution };
    let sums = pulp::Arch::new().dispatch(rows)?;
    let gram = gram(solution, width, factors);
    let mut observed_loss = sums.objective - sums.penalty;
    if let Feedback::Implicit { .. } = feedback {
        observed_loss -= unobserved_loss(&gram, fixed.gram);
    }
    Ok(Measures { observed_loss, penalty: sums.penalty, gram })
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
mod tests {
    use super::*;
    use crate::csr::Duplicates;
    use crate::random::starting_factors;
    use proptest::prelude::*;

    const USERS: usize = 6;
    const ITEMS: usize = 5;

    fn weights() -> impl Strategy<Value = Vec<(u32, u32, f32)>> {
        prop::collection::btree_map((0..USERS as u32, 0..ITEMS as u32), -2i32..5, 1..25)
            .prop_map(|map| map.into_iter().map(|((u, i), w)| (u, i, w as f32)).collect())
    }

    fn feedback() -> impl Strategy<Value = Feedback> {
        prop_oneof![
            (0.1f64..20.0).prop_map(|alpha| Feedback::Implicit { alpha }),
            (any::<bool>(), -1.0f64..4.0)
                .prop_map(|(bias, mean)| Feedback::Explicit { bias, mean }),
        ]
    }

    /// The whole loss by its definition, touching every pair.
    fn slow_loss(
        feedback: Feedback,
        factors: usize,
        entries: &[(u32, u32, f32)],
        users: &[f32],
        items: &[f32],
    ) -> f64 {
        let width = feedback.width(factors);
        let mut loss = 0.0;
        for user in 0..USERS {
            for item in 0..ITEMS {
                let entry = entries.iter().find(|e| (e.0, e.1) == (user as u32, item as u32));
                let score =
                    score(feedback, factors, &users[user * width..], &items[item * width..]);
                loss += match (feedback, entry) {
                    (Feedback::Explicit { .. }, None) => 0.0,
                    (Feedback::Explicit { .. }, Some(entry)) => {
                        (f64::from(entry.2) - score).powi(2)
                    }
                    (Feedback::Implicit { .. }, None) => score.powi(2),
                    (Feedback::Implicit { alpha }, Some(entry)) => {
                        let preference = if entry.2 > 0.0 { 1.0 } else { 0.0 };
                        (1.0 + alpha * f64::from(entry.2).abs()) * (preference - score).powi(2)
                    }
                };
            }
        }
        loss
    }

    fn slow_penalty(
        feedback: Feedback,
        factors: usize,
        regularization: &Regularization,
        block: &Csr<f32>,
        rows: &[f32],
    ) -> f64 {
        let width = feedback.width(factors);
        (0..block.rows())
            .map(|row| {
                let norm: f64 =
                    rows[row * width..][..width].iter().map(|v| f64::from(*v).powi(2)).sum();
                regularization.of_row(block.row(row).0.len()) * norm
            })
            .sum()
    }

    /// What the digits of a solution `x` are lost from: the sum of `trace(A)·|x|²` over the rows, where `A` is
    /// the matrix of a row's equations. A decomposition in `f32` solves equations that differ from the given
    /// ones by some roundings of `A` (Higham, "Accuracy and Stability of Numerical Algorithms", theorem 10.4).
    fn size_of_terms(
        feedback: Feedback,
        factors: usize,
        regularization: &Regularization,
        items: &[f32],
        block: &Csr<f32>,
        users: &[f32],
    ) -> f64 {
        let width = feedback.width(factors);
        let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        let row_of = |user: usize| {
            let (columns, weights) = block.row(user);
            let mut trace = width as f64 * regularization.of_row(columns.len());
            if let Feedback::Implicit { .. } = feedback {
                trace += norm(items);
            }
            for (column, weight) in columns.iter().zip(weights) {
                let item = &items[*column as usize * width..][..width];
                trace += match feedback {
                    Feedback::Implicit { alpha } => alpha * f64::from(weight.abs()) * norm(item),
                    Feedback::Explicit { .. } => norm(&item[..factors]) + (width - factors) as f64,
                };
            }
            trace * norm(&users[user * width..][..width])
        };
        (0..block.rows()).map(row_of).sum()
    }

    proptest! {
        /// The solution is the minimum: the reported loss is the definition's, and moving any
        /// coordinate either way does not lower it.
        #[test]
        fn a_half_step_finds_the_minimum(
            entries in weights(),
            feedback in feedback(),
            strength in 0.05f64..2.0,
            exponent in 0.0f64..1.0,
            seed in any::<u64>(),
        ) {
            let factors = 3;
            let width = feedback.width(factors);
            let regularization = Regularization { strength, exponent, unobserved: 0.5 };
            let items: Vec<f32> = starting_factors(seed, 0, ITEMS, width, width)
                .iter().map(|value| value * 10.0).collect();
            let block = Csr::from_entries(0, USERS, entries.clone(), Duplicates::Add);
            let items_gram = gram(&items, width, factors);
            let fixed = Fixed { rows: &items, gram: &items_gram };
            let mut users = vec![0.0; USERS * width];
            let measures =
                half_step(feedback, &regularization, factors, fixed, &block, &mut users).unwrap();

            let loss = |users: &[f32]| {
                slow_loss(feedback, factors, &entries, users, &items)
                    + slow_penalty(feedback, factors, &regularization, &block, users)
            };
            let best = loss(&users);
            let mut reported = measures.observed_loss + measures.penalty;
            if matches!(feedback, Feedback::Implicit { .. }) {
                reported += unobserved_loss(&measures.gram, &items_gram);
            }
            let zeros = loss(&vec![0.0; users.len()]);
            let terms = size_of_terms(feedback, factors, &regularization, &items, &block, &users);
            let digits = 8.0 * f64::from(f32::EPSILON) * (zeros + terms);
            prop_assert!((reported - best).abs() <= digits, "{reported} {best}");
            for coordinate in 0..users.len() {
                for step in [-1e-2, 1e-2] {
                    let mut moved = users.clone();
                    moved[coordinate] += step;
                    // Where the loss is least, a rounding moves it in the second order only.
                    let least = best - 1e-6 * zeros.max(1.0);
                    prop_assert!(loss(&moved) >= least, "coordinate {coordinate}");
                }
            }
        }

        #[test]
        fn rows_do_not_depend_on_the_block_they_are_in(entries in weights(), alpha in 0.1f64..9.0) {
            let (feedback, factors) = (Feedback::Implicit { alpha }, 3);
            let regularization = Regularization { strength: 0.1, exponent: 1.0, unobserved: 0.0 };
            let items = starting_factors(1, 0, ITEMS, factors, factors);
            let items_gram = gram(&items, factors, factors);
            let fixed = Fixed { rows: &items, gram: &items_gram };
            let solve = |first: usize, rows: usize| {
                let range = first as u32..(first + rows) as u32;
                let own = entries.iter().copied().filter(|e| range.contains(&e.0)).collect();
                let block = Csr::from_entries(first as u32, rows, own, Duplicates::Add);
                let mut out = vec![0.0; rows * factors];
                half_step(feedback, &regularization, factors, fixed, &block, &mut out).unwrap();
                out
            };
            let parts = [solve(0, 2), solve(2, 1), solve(3, USERS - 3)].concat();
            prop_assert_eq!(solve(0, USERS), parts);
        }
    }

    #[test]
    fn long_rows_are_added_up_in_chunks() {
        let columns = 3 * CHUNK + 17;
        let entries = (0..columns as u32).map(|column| (0, column, 1.0)).collect();
        let block = Csr::from_entries(0, 1, entries, Duplicates::Add);
        let items = vec![0.5f32; columns];
        let gram = gram(&items, 1, 1);
        assert_eq!(gram, [columns as f64 * 0.25]);
        let regularization = Regularization { strength: 1.0, exponent: 0.0, unobserved: 0.0 };
        let mut out = [0.0];
        let fixed = Fixed { rows: &items, gram: &gram };
        half_step(Feedback::Implicit { alpha: 2.0 }, &regularization, 1, fixed, &block, &mut out)
            .unwrap();
        // (1 + 2·1) · n · 0.5 / ((1 + 2) · n · 0.25 + 1)
        let n = columns as f64;
        assert!((f64::from(out[0]) - 1.5 * n / (0.75 * n + 1.0)).abs() < 1e-6);
    }

    #[test]
    fn singular_equations_name_the_row() {
        let block = Csr::from_entries(4, 1, vec![(4, 0, 1.0)], Duplicates::Add);
        let regularization = Regularization { strength: 0.0, exponent: 0.0, unobserved: 0.0 };
        let fixed = Fixed { rows: &[1.0, 2.0], gram: &[] };
        let feedback = Feedback::Explicit { bias: false, mean: 0.0 };
        let result = half_step(feedback, &regularization, 2, fixed, &block, &mut [0.0, 0.0]);
        assert_eq!(result, Err(AlsError::Singular { row: 4, observations: 1 }));
    }
}
