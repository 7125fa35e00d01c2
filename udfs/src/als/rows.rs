//! The rows of a block, solved in single precision.
//!
//! Most of a training is here: a row's observations are gathered in a panel, whose products with itself are
//! its normal equations. They are added up in `f32` for [`CHUNK`] observations at a time, and beyond that
//! in `f64`. Where the decomposition loses too many digits, the row is solved again in `f64`.

use super::{AlsError, CHUNK, Equations, Feedback, Fixed, Regularization};
use crate::csr::Csr;
use crate::dense;
use pulp::{Simd, WithSimd};

/// Solves all rows of a block.
pub(super) struct Rows<'a> {
    pub(super) feedback: Feedback,
    pub(super) regularization: &'a Regularization,
    pub(super) fixed: Fixed<'a>,
    pub(super) block: &'a Csr<f32>,
    pub(super) width: usize,
    pub(super) solution: &'a mut [f32],
}

/// What the rows add to the loss.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sums {
    /// The minima of the rows' objectives: for implicit feedback, over all pairs of the row.
    pub(super) objective: f64,
    /// The penalties that are part of them.
    pub(super) penalty: f64,
}

impl WithSimd for Rows<'_> {
    type Output = Result<Sums, AlsError>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let mut sums = Sums::default();
        let mut room = Room::new(self.feedback, self.width, self.fixed);
        for (row, out) in self.solution.chunks_exact_mut(self.width).enumerate() {
            let (columns, weights) = self.block.row(row);
            let lambda = self.regularization.of_row(columns.len());
            room.gather(simd, columns, weights);
            if !room.solve(simd, lambda) && !room.solve_precisely(columns, weights, lambda) {
                return Err(AlsError::Singular {
                    row: self.block.first_row as usize + row,
                    observations: columns.len(),
                });
            }
            // At its minimum, an objective xᵀAx − 2bᵀx + s is s − bᵀx.
            let (mut gain, mut norm) = (0.0, 0.0);
            for ((out, value), target) in out.iter_mut().zip(&room.unknowns).zip(&room.target) {
                *out = *value;
                gain += f64::from(*value) * target;
                norm += f64::from(*value) * f64::from(*value);
            }
            sums.objective += room.squares - gain;
            sums.penalty += lambda * norm;
        }
        Ok(sums)
    }
}

/// The room for the equations of one row.
struct Room<'a> {
    feedback: Feedback,
    width: usize,
    /// The width, with what makes columns whole vectors.
    order: usize,
    fixed: Fixed<'a>,
    /// What the equations of every row begin with.
    base: Vec<f32>,
    /// The observations of a chunk, each times the root of its confidence.
    panel: Vec<f32>,
    /// The sums of a chunk, then the equations, then their decomposition.
    matrix: Vec<f32>,
    /// The sums of the chunks before.
    earlier: Vec<f64>,
    /// The right side of a chunk.
    pulled: Vec<f32>,
    /// The right side.
    target: Vec<f64>,
    /// The objective of a row of zeros.
    squares: f64,
    inverse: Vec<f32>,
    unknowns: Vec<f32>,
    precise: Equations,
}

impl<'a> Room<'a> {
    fn new(feedback: Feedback, width: usize, fixed: Fixed<'a>) -> Self {
        let order = dense::padded(width);
        let mut base = vec![0.0; order * order];
        if let Feedback::Implicit { .. } = feedback {
            for (base, gram) in base.chunks_exact_mut(order).zip(fixed.gram.chunks_exact(width)) {
                base.iter_mut().zip(gram).for_each(|(base, gram)| *base = *gram as f32);
            }
        }
        // The unknowns beyond the width are zero.
        for beyond in width..order {
            base[beyond * order + beyond] = 1.0;
        }
        Self {
            feedback,
            width,
            order,
            fixed,
            base,
            panel: vec![0.0; CHUNK * order],
            matrix: vec![0.0; order * order],
            earlier: vec![0.0; order * order],
            pulled: vec![0.0; order],
            target: vec![0.0; order],
            squares: 0.0,
            inverse: vec![0.0; order],
            unknowns: vec![0.0; order],
            precise: Equations::new(width),
        }
    }

    /// Adds up the observations of a row.
    #[inline(always)]
    fn gather<S: Simd>(&mut self, simd: S, columns: &[u32], weights: &[f32]) {
        self.squares = 0.0;
        self.target.fill(0.0);
        let chunks = columns.len().div_ceil(CHUNK).max(1);
        match chunks {
            1 => self.matrix.copy_from_slice(&self.base),
            _ => self
                .earlier
                .iter_mut()
                .zip(&self.base)
                .for_each(|(sum, base)| *sum = f64::from(*base)),
        }
        for (columns, weights) in columns.chunks(CHUNK).zip(weights.chunks(CHUNK)) {
            self.pulled.fill(0.0);
            let rows = self.panel.chunks_exact_mut(self.order);
            for ((z, column), weight) in rows.zip(columns).zip(weights) {
                let other = &self.fixed.rows[*column as usize * self.width..][..self.width];
                let (scale, pull) = self.feedback.observe(*weight, other);
                // The confidence in a preference of 1, or the square of a value.
                self.squares += match self.feedback {
                    Feedback::Implicit { .. } => pull,
                    Feedback::Explicit { .. } => pull * pull,
                };
                let (scale, pull) = (scale as f32, pull as f32);
                for ((z, other), pulled) in z.iter_mut().zip(other).zip(&mut self.pulled) {
                    *z = *other * scale;
                    *pulled += *other * pull;
                }
                if self.feedback.has_bias() {
                    self.pulled[self.width - 1] += pull * (1.0 - other[self.width - 1]);
                    z[self.width - 1] = 1.0;
                }
            }
            if chunks > 1 {
                self.matrix.fill(0.0);
            }
            let panel = &self.panel[..columns.len() * self.order];
            dense::add_products(simd, &mut self.matrix, panel, self.order);
            if chunks > 1 {
                let sums = self.earlier.iter_mut().zip(&self.matrix);
                sums.for_each(|(sum, chunk)| *sum += f64::from(*chunk));
            }
            let sums = self.target.iter_mut().zip(&self.pulled);
            sums.for_each(|(sum, chunk)| *sum += f64::from(*chunk));
        }
        if chunks > 1 {
            let sums = self.matrix.iter_mut().zip(&self.earlier);
            sums.for_each(|(value, sum)| *value = *sum as f32);
        }
    }

    /// Solves what has been added up. False if too many digits are lost.
    #[inline(always)]
    fn solve<S: Simd>(&mut self, simd: S, lambda: f64) -> bool {
        for diagonal in 0..self.width {
            self.matrix[diagonal * (self.order + 1)] += lambda as f32;
        }
        let solved = dense::decompose(simd, &mut self.matrix, &mut self.inverse, self.order);
        if solved {
            let values = self.unknowns.iter_mut().zip(&self.target);
            values.for_each(|(value, target)| *value = *target as f32);
            dense::solve(simd, &self.matrix, &self.inverse, &mut self.unknowns, self.order);
        }
        solved && self.unknowns.iter().all(|value| value.is_finite())
    }

    /// Solves the row in double precision. False if its equations are singular.
    #[cold]
    fn solve_precisely(&mut self, columns: &[u32], weights: &[f32], lambda: f64) -> bool {
        self.precise.start(self.feedback, self.fixed.gram, lambda);
        let (rows, width) = (self.fixed.rows, self.width);
        let observations = columns
            .iter()
            .zip(weights)
            .map(|(column, weight)| (&rows[*column as usize * width..][..width], *weight));
        self.precise.add(self.feedback, observations);
        let Some(solved) = self.precise.solve() else { return false };
        let values = self.unknowns.iter_mut().zip(solved);
        values.for_each(|(value, solved)| *value = *solved as f32);
        true
    }
}
