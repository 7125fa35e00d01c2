//! Rows by conjugate gradients: the matrix of a row's equations is never made, only multiplied by vectors, for
//! which the row's observations are read once. Along the axes of the fixed side they are preconditioned with what all rows
//! have in common, a diagonal there, and come about as far as an exact solution in a few steps.

use super::common::Common;
use super::observations::Observations;
use super::rows::{Row, SolveRow};
use super::{Feedback, Fixed};
use pulp::Simd;

/// The room for a row.
pub(super) struct Gradient<'a> {
    steps: usize,
    observations: Observations<'a>,
    common: Common,
    /// What a residual is multiplied by to be a direction.
    inverse: Vec<f32>,
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
            common: Common::new(feedback, fixed, width),
            inverse: vec![0.0; width],
            residual: vec![0.0; width],
            direction: vec![0.0; width],
            product: vec![0.0; width],
            sum: vec![0.0; width],
        }
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
        self.common.product(simd, row.lambda, solution, &mut self.product);
        let mut objective = squares + inner(&self.product, solution);
        self.sum.iter_mut().zip(&self.product).for_each(|(sum, value)| *sum = -f64::from(*value));
        let start = |confidence: f32, pull: f32, product: f32| {
            let weighted = f64::from(confidence) * f64::from(product);
            objective += (weighted - 2.0 * f64::from(pull)) * f64::from(product);
            pull - confidence * product
        };
        self.observations.add(simd, row.columns, solution, &mut self.sum, start);
        self.common.precondition(row.lambda, &mut self.inverse);
        for (((residual, direction), inverse), sum) in
            self.residual.iter_mut().zip(&mut self.direction).zip(&self.inverse).zip(&self.sum)
        {
            *residual = *sum as f32;
            *direction = *residual * inverse;
        }
        let mut size = inner(&self.residual, &self.direction);
        for _ in 0..self.steps {
            self.common.product(simd, row.lambda, &self.direction, &mut self.product);
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
            let values = self.residual.iter().zip(&self.inverse);
            self.product
                .iter_mut()
                .zip(values)
                .for_each(|(product, (residual, inverse))| *product = residual * inverse);
            size = inner(&self.residual, &self.product);
            let values = self.direction.iter_mut().zip(&self.product);
            let keep = (size / before) as f32;
            values.for_each(|(direction, product)| *direction = product + keep * *direction);
        }
        Some(objective)
    }
}
