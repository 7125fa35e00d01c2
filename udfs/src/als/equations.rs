//! The normal equations of one row, gathered from its observations and solved.

use super::rows::Row;
use super::{CHUNK, Feedback, Fixed, add_products};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::{MatMut, Par};
use std::fmt;

/// The normal equations of one row, and the room to solve them in.
pub struct Equations {
    width: usize,
    matrix: Vec<f64>,
    target: Vec<f64>,
    gathered: Vec<f64>,
    scratch: MemBuffer,
}

impl Equations {
    /// Equations of `width` unknowns, see [`Feedback::width`].
    pub fn new(width: usize) -> Self {
        let factor =
            llt::factor::cholesky_in_place_scratch::<f64>(width, Par::Seq, Default::default());
        let solve = llt::solve::solve_in_place_scratch::<f64>(width, 1, Par::Seq);
        Self {
            width,
            matrix: vec![0.0; width * width],
            target: vec![0.0; width],
            gathered: Vec::new(),
            scratch: MemBuffer::new(factor.or(solve)),
        }
    }

    /// The number of unknowns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Starts from nothing, to gather [`Equations::sums`].
    pub fn clear(&mut self) {
        self.matrix.fill(0.0);
        self.target.fill(0.0);
    }

    /// Starts a row: what does not depend on its observations. `gram` and `lambda` are those of
    /// [`Fixed`] and [`Regularization::of_row`].
    pub fn start(&mut self, feedback: Feedback, gram: &[f64], lambda: f64) {
        match feedback {
            Feedback::Implicit { .. } => self.matrix.copy_from_slice(gram),
            Feedback::Explicit { .. } => self.matrix.fill(0.0),
        }
        self.target.fill(0.0);
        for diagonal in 0..self.width {
            self.matrix[diagonal * self.width + diagonal] += lambda;
        }
    }

    /// Solves a row, with the first `constrained` unknowns not negative if there are such. `None` if its equations are singular,
    /// else the product of its right side and the solution.
    #[cold]
    pub(super) fn solve_row(
        &mut self,
        feedback: Feedback,
        fixed: Fixed<'_>,
        row: &Row<'_>,
        constrained: Option<usize>,
        solution: &mut [f32],
    ) -> Option<f64> {
        self.start(feedback, fixed.common_gram(), row.lambda);
        let width = self.width;
        match row.sums {
            Some(sums) => {
                let (matrix, target, _) = sums.parts(width);
                self.matrix.iter_mut().zip(matrix).for_each(|(sum, value)| *sum += value);
                self.target.iter_mut().zip(target).for_each(|(sum, value)| *sum += value);
            }
            None => {
                let columns = row.columns.iter().zip(row.weights);
                let observed = columns.map(|(column, weight)| (fixed.row(*column, width), *weight));
                self.add(feedback, observed);
            }
        }
        let target = self.target.clone();
        let solved = match constrained {
            Some(constrained) => self.solve_nonnegative(constrained),
            None => self.solve(),
        }?;
        solution.iter_mut().zip(solved).for_each(|(value, solved)| *value = *solved as f32);
        Some(solved.iter().zip(&target).map(|(value, target)| value * target).sum())
    }

    /// Adds observations: the other side's row of [`Feedback::width`] numbers, and the weight.
    pub fn add<'a>(
        &mut self,
        feedback: Feedback,
        observations: impl Iterator<Item = (&'a [f32], f32)>,
    ) {
        self.gathered.clear();
        for (other, weight) in observations {
            let (confidence, pull) = feedback.observe(weight, other);
            let scale = confidence.sqrt();
            let start = self.gathered.len();
            self.gathered.extend(other.iter().map(|value| f64::from(*value)));
            let z = &mut self.gathered[start..];
            if feedback.has_bias() {
                z[self.width - 1] = 1.0;
            }
            for (target, value) in self.target.iter_mut().zip(z.iter_mut()) {
                *target += pull * *value;
                *value *= scale;
            }
            if self.gathered.len() >= CHUNK * self.width {
                add_products(&mut self.matrix, &self.gathered, self.width);
                self.gathered.clear();
            }
        }
        if !self.gathered.is_empty() {
            add_products(&mut self.matrix, &self.gathered, self.width);
        }
    }

    /// Numbers in the sums of equations of `width` unknowns.
    pub fn sums_len(width: usize) -> usize {
        width * (width + 3) / 2
    }

    /// What has been added up: the rows of the matrix's upper triangle, then the target.
    pub fn sums(&self) -> Vec<f64> {
        let mut sums = Vec::with_capacity(Self::sums_len(self.width));
        for row in 0..self.width {
            sums.extend_from_slice(&self.matrix[row * (self.width + 1)..][..self.width - row]);
        }
        sums.extend_from_slice(&self.target);
        sums
    }

    /// Adds the sums of other observations of the same row.
    pub fn add_sums(&mut self, sums: &[f64]) {
        let mut sums = sums.iter();
        for row in 0..self.width {
            let triangle = &mut self.matrix[row * (self.width + 1)..][..self.width - row];
            triangle.iter_mut().zip(&mut sums).for_each(|(value, sum)| *value += sum);
        }
        self.target.iter_mut().zip(sums).for_each(|(value, sum)| *value += sum);
    }

    /// Solves the equations by Cholesky decomposition; `None` if they are singular.
    pub fn solve(&mut self) -> Option<&[f64]> {
        let width = self.width;
        let stack = MemStack::new(&mut self.scratch);
        let mut matrix = MatMut::from_column_major_slice_mut(&mut self.matrix, width, width);
        llt::factor::cholesky_in_place(
            matrix.as_mut(),
            Default::default(),
            Par::Seq,
            stack,
            Default::default(),
        )
        .ok()?;
        let target = MatMut::from_column_major_slice_mut(&mut self.target, width, 1);
        llt::solve::solve_in_place(matrix.as_ref(), target, Par::Seq, stack);
        self.target.iter().all(|value| value.is_finite()).then_some(&self.target)
    }
}

impl Equations {
    /// Solves the equations with the first `constrained` unknowns not negative, by cyclic coordinate descent: slow, and
    /// also where the equations are singular, for one of their solutions. `None` if it comes to no end.
    fn solve_nonnegative(&mut self, constrained: usize) -> Option<&[f64]> {
        let width = self.width;
        for row in 0..width {
            for column in row + 1..width {
                self.matrix[column * width + row] = self.matrix[row * width + column];
            }
        }
        // The gradient at zero.
        let mut gradient: Vec<f64> = self.target.iter().map(|target| -target).collect();
        self.target.fill(0.0);
        for _ in 0..MOST_SWEEPS {
            let mut gain = 0.0;
            let mut total = 0.0;
            for (at, column) in self.matrix.chunks_exact(width).enumerate() {
                let curvature = column[at];
                if curvature <= 0.0 {
                    continue;
                }
                let mut value = self.target[at] - gradient[at] / curvature;
                if at < constrained {
                    value = value.max(0.0);
                }
                let step = value - self.target[at];
                self.target[at] = value;
                gradient.iter_mut().zip(column).for_each(|(to, by)| *to += step * by);
                gain += curvature * step * step;
                total += curvature * value * value;
            }
            if gain <= f64::EPSILON * total {
                return self.target.iter().all(|value| value.is_finite()).then_some(&self.target);
            }
        }
        None
    }
}

/// Sweeps of coordinate descent before it is given up.
const MOST_SWEEPS: usize = 10_000;

impl fmt::Debug for Equations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Equations").field("width", &self.width).finish_non_exhaustive()
    }
}
