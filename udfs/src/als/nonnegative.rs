//! Normal equations whose unknowns must not be negative, by block principal pivoting.

use crate::dense::{self, System};
use pulp::Simd;

/// Roundings of its terms that a derivative may be below zero by.
const ROUNDINGS: f32 = 8.0;

/// Decompositions before a row is left to a slower way.
const MOST_PIVOTINGS: usize = 60;

/// Exchanges of whole sets that may fail to make the set of wrong unknowns smaller, before single unknowns are
/// exchanged, which always comes to an end.
const PATIENCE: usize = 3;

/// The room for equations with constraints.
pub(super) struct NonNegative {
    constrained: usize,
    order: usize,
    /// Both triangles of the matrix.
    matrix: Vec<f32>,
    trial: System,
    /// Whether an unknown is free to differ from zero.
    free: Vec<bool>,
    gradient: Vec<f32>,
    /// The sizes of the terms of the gradient.
    sizes: Vec<f32>,
    wrong: Vec<usize>,
}

impl NonNegative {
    /// Room for `width` unknowns, of which the first `constrained` must not be negative.
    pub(super) fn new(constrained: usize, width: usize) -> Self {
        let order = dense::padded(width);
        Self {
            constrained,
            order,
            matrix: vec![0.0; order * order],
            trial: System::new(order),
            free: vec![true; order],
            gradient: vec![0.0; order],
            sizes: vec![0.0; order],
            wrong: Vec::with_capacity(order),
        }
    }

    /// How many unknowns must not be negative.
    pub(super) fn constrained(&self) -> usize {
        self.constrained
    }

    /// Solves a system, from all unknowns free on. The system is left marked as not definite if digits are lost, or
    /// it takes too long.
    #[inline(always)]
    pub(super) fn solve<S: Simd>(&mut self, simd: S, system: &mut System) {
        let order = self.order;
        for row in 0..order {
            for column in 0..=row {
                let value = system.matrix[column * order + row];
                self.matrix[column * order + row] = value;
                self.matrix[row * order + column] = value;
            }
        }
        self.free.fill(true);
        let (mut fewest, mut patience) = (usize::MAX, PATIENCE);
        system.definite = false;
        for _ in 0..MOST_PIVOTINGS {
            self.solve_free(simd, &system.unknowns);
            if !self.trial.definite {
                return;
            }
            self.find_wrong(&system.unknowns);
            let Some(last) = self.wrong.last() else {
                system.unknowns.copy_from_slice(&self.trial.unknowns);
                system.definite = true;
                return;
            };
            if self.wrong.len() < fewest {
                (fewest, patience) = (self.wrong.len(), PATIENCE);
            } else if patience > 0 {
                patience -= 1;
            } else {
                self.free[*last] = !self.free[*last];
                continue;
            }
            for at in &self.wrong {
                self.free[*at] = !self.free[*at];
            }
        }
    }

    /// Solves for the free unknowns; the others are zero.
    #[inline(always)]
    fn solve_free<S: Simd>(&mut self, simd: S, target: &[f32]) {
        let columns = self.trial.matrix.chunks_exact_mut(self.order);
        for (at, (out, column)) in columns.zip(self.matrix.chunks_exact(self.order)).enumerate() {
            if self.free[at] {
                let values = column.iter().zip(&self.free);
                let values = values.map(|(value, free)| if *free { *value } else { 0.0 });
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
            } else {
                out.fill(0.0);
                out[at] = 1.0;
            }
        }
        let target = target.iter().zip(&self.free);
        let target = target.map(|(value, free)| if *free { *value } else { 0.0 });
        self.trial.unknowns.iter_mut().zip(target).for_each(|(out, value)| *out = value);
        self.trial.solve(simd);
    }

    /// Finds the unknowns that are negative, and the zeros that would be better if they were greater.
    #[inline(always)]
    fn find_wrong(&mut self, target: &[f32]) {
        let start = self.gradient.iter_mut().zip(&mut self.sizes).zip(target);
        start.for_each(|((gradient, size), target)| (*gradient, *size) = (-target, target.abs()));
        let unknowns = self.trial.unknowns.iter();
        for (value, column) in unknowns.zip(self.matrix.chunks_exact(self.order)) {
            if *value != 0.0 {
                let sums = self.gradient.iter_mut().zip(&mut self.sizes).zip(column);
                for ((gradient, size), entry) in sums {
                    *gradient += value * entry;
                    *size += (value * entry).abs();
                }
            }
        }
        self.wrong.clear();
        let wrong = (0..self.constrained).filter(|at| match self.free[*at] {
            true => self.trial.unknowns[*at] < 0.0,
            false => self.gradient[*at] < -ROUNDINGS * f32::EPSILON * self.sizes[*at],
        });
        self.wrong.extend(wrong);
    }
}
