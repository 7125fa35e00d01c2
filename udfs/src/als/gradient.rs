//! Rows by conjugate gradients: the matrix of a row's equations is never made, only multiplied by vectors, for
//! which the row's observations are read once.

use super::observations::Observations;
use super::rows::{Row, SolveRow};
use super::{Feedback, Fixed};
use crate::dense;
use pulp::Simd;

/// The room for a row.
pub(super) struct Gradient<'a> {
    steps: usize,
    observations: Observations<'a>,
    /// What the equations of every row have in common, in rows of `width` numbers.
    gram: Vec<f32>,
    residual: Vec<f32>,
    direction: Vec<f32>,
    product: Vec<f32>,
    sum: Vec<f64>,
}

impl<'a> Gradient<'a> {
    pub(super) fn new(feedback: Feedback, width: usize, fixed: Fixed<'a>, steps: usize) -> Self {
        Self {
            steps,
            observations: Observations::new(feedback, width, fixed),
            gram: fixed.single_gram(feedback, width, width),
            residual: vec![0.0; width],
            direction: vec![0.0; width],
            product: vec![0.0; width],
            sum: vec![0.0; width],
        }
    }
}

/// The product of `vector` with the Gram matrix and the penalty.
#[inline(always)]
pub(super) fn common_product<S: Simd>(
    simd: S,
    gram: &[f32],
    lambda: f64,
    vector: &[f32],
    product: &mut [f32],
) {
    let values = product.iter_mut().zip(vector);
    values.for_each(|(product, value)| *product = lambda as f32 * value);
    if gram.is_empty() {
        return;
    }
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

/// The inner product of two vectors.
pub(super) fn inner(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

impl SolveRow for Gradient<'_> {
    #[inline(always)]
    fn solve_row<S: Simd>(&mut self, simd: S, row: &Row<'_>, solution: &mut [f32]) -> Option<f64> {
        let squares = self.observations.read(row);
        // The objective is xᵀAx − 2bᵀx + s: what observations add to it is made of their products with x.
        common_product(simd, &self.gram, row.lambda, solution, &mut self.product);
        let mut objective = squares + inner(&self.product, solution);
        self.sum.iter_mut().zip(&self.product).for_each(|(sum, value)| *sum = -f64::from(*value));
        let start = |confidence: f32, pull: f32, product: f32| {
            let weighted = f64::from(confidence) * f64::from(product);
            objective += (weighted - 2.0 * f64::from(pull)) * f64::from(product);
            pull - confidence * product
        };
        self.observations.add(simd, row.columns, solution, &mut self.sum, start);
        for ((residual, direction), sum) in
            self.residual.iter_mut().zip(&mut self.direction).zip(&self.sum)
        {
            *residual = *sum as f32;
            *direction = *sum as f32;
        }
        let mut size = inner(&self.residual, &self.residual);
        for _ in 0..self.steps {
            common_product(simd, &self.gram, row.lambda, &self.direction, &mut self.product);
            self.sum
                .iter_mut()
                .zip(&self.product)
                .for_each(|(sum, value)| *sum = f64::from(*value));
            let weigh = |confidence: f32, _: f32, product: f32| confidence * product;
            self.observations.add(simd, row.columns, &self.direction, &mut self.sum, weigh);
            let bend: f64 =
                self.direction.iter().zip(&self.sum).map(|(a, b)| f64::from(*a) * b).sum();
            // Nothing is left to gain, or no digit of what is left is right.
            let step = size / bend;
            if !(step.is_finite() && step > 0.0) {
                break;
            }
            objective -= step * size;
            let values = solution.iter_mut().zip(&self.direction);
            values.for_each(|(value, direction)| *value += step as f32 * direction);
            let values = self.residual.iter_mut().zip(&self.sum);
            values.for_each(|(residual, sum)| *residual -= (step * sum) as f32);
            let before = size;
            size = inner(&self.residual, &self.residual);
            let values = self.direction.iter_mut().zip(&self.residual);
            let keep = (size / before) as f32;
            values.for_each(|(direction, residual)| *direction = residual + keep * *direction);
        }
        Some(objective)
    }
}
