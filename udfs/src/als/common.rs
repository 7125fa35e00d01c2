//! What the equations of all rows have in common: the Gram matrix of the fixed side. A row adds its penalty to the diagonal.

use super::{Feedback, Fixed};
use crate::dense;
use pulp::Simd;
use std::ops::Range;

/// The least that a number is divided by before it is a step's, as a share of the largest: what is smaller is a rounding.
const LEAST: f32 = 1e-6;

/// The Gram matrix of the fixed side, in single precision.
pub(super) enum Common {
    /// Nothing: only what is observed counts.
    Nothing,
    /// Along the axes of the fixed side: the diagonal.
    Diagonal(Vec<f32>),
    /// All of it, in rows of `width` numbers.
    Matrix(Vec<f32>),
}

impl Common {
    pub(super) fn new(feedback: Feedback, fixed: Fixed<'_>, width: usize) -> Self {
        let single = |value: &f64| *value as f32;
        match (feedback, fixed.axes, fixed.gram) {
            (Feedback::Explicit { .. }, _, _) | (_, None, []) => Common::Nothing,
            (_, Some(axes), _) => {
                Common::Diagonal(axes.gram.iter().step_by(width + 1).map(single).collect())
            }
            (_, None, gram) => Common::Matrix(gram.iter().map(single).collect()),
        }
    }

    /// The square of it for some unknowns, in columns of `order` numbers. Those beyond are kept at zero by a one.
    pub(super) fn square(&self, range: Range<usize>, width: usize, order: usize) -> Vec<f32> {
        let mut square = vec![0.0; order * order];
        for (at, (column, row)) in square.chunks_exact_mut(order).zip(range.clone()).enumerate() {
            match self {
                Common::Nothing => {}
                Common::Diagonal(diagonal) => column[at] = diagonal[row],
                Common::Matrix(matrix) => {
                    let row = &matrix[row * width..][range.clone()];
                    column[..range.len()].copy_from_slice(row);
                }
            }
        }
        for beyond in range.len()..order {
            square[beyond * (order + 1)] = 1.0;
        }
        square
    }

    /// Its product with a vector, with the penalty's.
    #[inline(always)]
    pub(super) fn product<S: Simd>(
        &self,
        simd: S,
        lambda: f64,
        vector: &[f32],
        product: &mut [f32],
    ) {
        let lambda = lambda as f32;
        let values = product.iter_mut().zip(vector);
        if let Common::Diagonal(diagonal) = self {
            for ((product, value), common) in values.zip(diagonal) {
                *product = (common + lambda) * value;
            }
            return;
        }
        values.for_each(|(product, value)| *product = lambda * value);
        let Common::Matrix(gram) = self else { return };
        let width = vector.len();
        let groups = vector.chunks_exact(4);
        let rest = groups.remainder();
        for (at, values) in groups.enumerate() {
            let rows = std::array::from_fn(|row| &gram[(4 * at + row) * width..][..width]);
            dense::add_multiples(simd, rows, [values[0], values[1], values[2], values[3]], product);
        }
        for (at, value) in rest.iter().enumerate() {
            let row = &gram[(width - rest.len() + at) * width..][..width];
            dense::add_multiples(simd, [row], [*value], product);
        }
    }

    /// Adds what a change of some unknowns, from the first on, changes a product by.
    #[inline(always)]
    pub(super) fn add_change<S: Simd>(
        &self,
        simd: S,
        lambda: f64,
        (first, change): (usize, &[f32]),
        product: &mut [f32],
    ) {
        let width = product.len();
        let values = product[first..].iter_mut().zip(change);
        values.for_each(|(product, change)| *product += lambda as f32 * change);
        match self {
            Common::Nothing => {}
            Common::Diagonal(diagonal) => {
                let values = product[first..].iter_mut().zip(&diagonal[first..]);
                values
                    .zip(change)
                    .for_each(|((product, common), change)| *product += common * change);
            }
            Common::Matrix(gram) => {
                for (row, change) in gram[first * width..].chunks_exact(width).zip(change) {
                    dense::add_multiples(simd, [row], [*change], product);
                }
            }
        }
    }

    /// What a residual is multiplied by, number by number, before it is a direction: the inverse of what is in common, if that
    /// is a diagonal, else ones.
    #[inline(always)]
    pub(super) fn precondition(&self, lambda: f64, inverse: &mut [f32]) {
        let Common::Diagonal(diagonal) = self else {
            inverse.fill(1.0);
            return;
        };
        let lambda = lambda as f32;
        let most = diagonal.iter().fold(0.0f32, |most, value| most.max(*value)) + lambda;
        for (inverse, common) in inverse.iter_mut().zip(diagonal) {
            *inverse = 1.0 / (common + lambda).max(LEAST * most);
        }
    }
}
