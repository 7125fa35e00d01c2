//! The observations of a row, one after another: what products with the matrix of its equations are made of.

use super::rows::Row;
use super::{CHUNK, Feedback, Fixed};
use crate::dense;
use pulp::Simd;

/// Observations that share the loading of a vector.
pub(super) const ABREAST: usize = 4;

/// What observations mean: how much each adds to the matrix of the equations (its confidence) and to the right side
/// (its pull). Returns the objective of a row of zeros.
#[inline(always)]
pub(super) fn observe(
    feedback: Feedback,
    fixed: Fixed<'_>,
    width: usize,
    (columns, weights): (&[u32], &[f32]),
    (confidences, pulls): (&mut [f32], &mut [f32]),
) -> f64 {
    // Sums that don't wait for each other.
    let mut squares = [0.0; 8];
    if let Feedback::Implicit { alpha } = feedback {
        let alpha = alpha as f32;
        for ((weight, confidence), pull) in weights.iter().zip(confidences).zip(&mut *pulls) {
            *confidence = alpha * weight.abs();
            *pull = if *weight > 0.0 { 1.0 + *confidence } else { 0.0 };
        }
        // The confidences in a preference of 1.
        let (many, few) = pulls.as_chunks::<8>();
        for pulls in many {
            for (sum, pull) in squares.iter_mut().zip(pulls) {
                *sum += f64::from(*pull);
            }
        }
        squares[0] += few.iter().copied().map(f64::from).sum::<f64>();
    } else {
        let rows = columns.iter().map(|column| fixed.row(*column, width));
        let observed = weights.iter().zip(rows).zip(confidences.iter_mut().zip(pulls));
        for ((weight, row), (confidence, pull)) in observed {
            let (certain, value) = feedback.observe(*weight, row);
            squares[0] += value * value;
            (*confidence, *pull) = (certain as f32, value as f32);
        }
    }
    squares.iter().sum()
}

/// What a row's observations mean, and the room to add them up.
pub(super) struct Observations<'a> {
    feedback: Feedback,
    width: usize,
    fixed: Fixed<'a>,
    pub(super) confidences: Vec<f32>,
    pulls: Vec<f32>,
    /// The sum of a chunk.
    chunk: Vec<f32>,
}

impl<'a> Observations<'a> {
    pub(super) fn new(feedback: Feedback, width: usize, fixed: Fixed<'a>) -> Self {
        let (confidences, pulls) = (Vec::new(), Vec::new());
        Self { feedback, width, fixed, confidences, pulls, chunk: vec![0.0; width] }
    }

    /// Reads the observations of a row. Returns the objective of a row of zeros.
    #[inline(always)]
    pub(super) fn read(&mut self, row: &Row<'_>) -> f64 {
        self.confidences.resize(row.weights.len(), 0.0);
        self.pulls.resize(row.weights.len(), 0.0);
        let means = (self.confidences.as_mut_slice(), self.pulls.as_mut_slice());
        observe(self.feedback, self.fixed, self.width, (row.columns, row.weights), means)
    }

    /// Adds the observations to `sum`, each times what `factor` makes of its confidence, its pull and its product
    /// with `vector`.
    #[inline(always)]
    pub(super) fn add<S: Simd>(
        &mut self,
        simd: S,
        columns: &[u32],
        vector: &[f32],
        sum: &mut [f64],
        mut factor: impl FnMut(f32, f32, f32) -> f32,
    ) {
        let (width, fixed, last) = (self.width, self.fixed, self.width - 1);
        let (confidences, pulls) = (&self.confidences, &self.pulls);
        let bias = self.feedback.has_bias();
        let mut first = 0;
        for columns in columns.chunks(CHUNK) {
            self.chunk.fill(0.0);
            let chunk = self.chunk.as_mut_slice();
            let groups = columns.chunks_exact(ABREAST);
            let rest = groups.remainder();
            for group in groups {
                let rows: [&[f32]; ABREAST] = std::array::from_fn(|at| fixed.row(group[at], width));
                let mut factors = dense::inner_products(simd, rows, vector);
                for (at, row) in rows.iter().enumerate() {
                    if bias {
                        factors[at] += (1.0 - row[last]) * vector[last];
                    }
                    factors[at] = factor(confidences[first + at], pulls[first + at], factors[at]);
                }
                dense::add_multiples(simd, rows, factors, chunk);
                for (at, row) in rows.iter().enumerate().filter(|_| bias) {
                    chunk[last] += factors[at] * (1.0 - row[last]);
                }
                first += ABREAST;
            }
            for column in rest {
                let row = fixed.row(*column, width);
                let [mut product] = dense::inner_products(simd, [row], vector);
                if bias {
                    product += (1.0 - row[last]) * vector[last];
                }
                let factor = factor(confidences[first], pulls[first], product);
                dense::add_multiples(simd, [row], [factor], chunk);
                if bias {
                    chunk[last] += factor * (1.0 - row[last]);
                }
                first += 1;
            }
            sum.iter_mut().zip(&*chunk).for_each(|(sum, chunk)| *sum += f64::from(*chunk));
        }
    }
}
