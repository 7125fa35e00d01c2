//! The rows of a block, solved in single precision.
//!
//! Most of a training is here: a row's observations are gathered in a panel, whose products with itself are
//! its normal equations. They are added up in `f32` for [`CHUNK`] observations at a time, and beyond that
//! in `f64`. Where the decomposition loses too many digits, the row is solved again in `f64`.

use super::{AlsError, CHUNK, Equations, Feedback, Fixed, Regularization};
use crate::csr::Csr;
use crate::dense;
use pulp::{Simd, WithSimd};

/// Observations that are gathered before they are multiplied: with 64 factors, what a first cache holds.
const PANEL_ROWS: usize = 128;

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
    /// Some observations, each times the root of its confidence.
    panel: Vec<f32>,
    /// These roots.
    scales: [f32; PANEL_ROWS],
    /// How much each observation adds to the right side.
    pulls: [f32; PANEL_ROWS],
    /// The sums of a chunk, then the equations, then their decomposition.
    matrix: Vec<f32>,
    /// The sums of the chunks before.
    earlier: Vec<f64>,
    /// The right side of a panel.
    pulled: Vec<f32>,
    /// The right side.
    target: Vec<f64>,
    /// The objective of a row of zeros.
    squares: f64,
    inverse: Vec<f32>,
    unknowns: Vec<f32>,
    precise: Equations,
}

/// The row of the other side for a column.
#[inline(always)]
fn row(fixed: Fixed<'_>, column: u32, width: usize) -> &[f32] {
    &fixed.rows[column as usize * width..][..width]
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
            panel: vec![0.0; PANEL_ROWS * order],
            scales: [0.0; PANEL_ROWS],
            pulls: [0.0; PANEL_ROWS],
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
            if chunks > 1 {
                self.matrix.fill(0.0);
            }
            let panels = columns.chunks(PANEL_ROWS).zip(weights.chunks(PANEL_ROWS));
            for (columns, weights) in panels {
                self.gather_panel(simd, columns, weights);
                let panel = &self.panel[..columns.len() * self.order];
                dense::add_products(simd, &mut self.matrix, panel, self.order);
            }
            if chunks > 1 {
                let sums = self.earlier.iter_mut().zip(&self.matrix);
                sums.for_each(|(sum, chunk)| *sum += f64::from(*chunk));
            }
        }
        if chunks > 1 {
            let sums = self.matrix.iter_mut().zip(&self.earlier);
            sums.for_each(|(value, sum)| *value = *sum as f32);
        }
    }

    /// Gathers a panel of observations, and adds them to the right side.
    #[inline(always)]
    fn gather_panel<S: Simd>(&mut self, simd: S, columns: &[u32], weights: &[f32]) {
        let factors = self.scales.iter_mut().zip(&mut self.pulls);
        for ((column, weight), (scale, pull)) in columns.iter().zip(weights).zip(factors) {
            let observed = self.feedback.observe(*weight, row(self.fixed, *column, self.width));
            // The confidence in a preference of 1, or the square of a value.
            self.squares += match self.feedback {
                Feedback::Implicit { .. } => observed.1,
                Feedback::Explicit { .. } => observed.1 * observed.1,
            };
            (*scale, *pull) = (observed.0 as f32, observed.1 as f32);
        }
        self.pulled.fill(0.0);
        let mut first = 0;
        while first + S::F32_LANES <= self.width {
            first += match (self.width - first) / S::F32_LANES {
                1 => self.gather_vectors::<S, 1>(simd, columns, first),
                2 => self.gather_vectors::<S, 2>(simd, columns, first),
                3 => self.gather_vectors::<S, 3>(simd, columns, first),
                _ => self.gather_vectors::<S, 4>(simd, columns, first),
            };
        }
        let panel = self.panel.chunks_exact_mut(self.order).zip(columns);
        for ((z, column), (scale, pull)) in panel.zip(self.scales.iter().zip(&self.pulls)) {
            let other = row(self.fixed, *column, self.width);
            for at in first..self.width {
                z[at] = other[at] * scale;
                self.pulled[at] += other[at] * pull;
            }
            if let (true, Some(bias)) = (self.feedback.has_bias(), other.last()) {
                self.pulled[self.width - 1] += pull * (1.0 - bias);
                z[self.width - 1] = 1.0;
            }
        }
        let sums = self.target.iter_mut().zip(&self.pulled);
        sums.for_each(|(sum, panel)| *sum += f64::from(*panel));
    }

    /// Gathers some vectors of the rows of a panel, from the number `first` on. Returns how many numbers.
    #[inline(always)]
    fn gather_vectors<S: Simd, const VECTORS: usize>(
        &mut self,
        simd: S,
        columns: &[u32],
        first: usize,
    ) -> usize {
        let range = first..first + VECTORS * S::F32_LANES;
        let mut sums = [simd.splat_f32s(0.0); VECTORS];
        let panel = self.panel.chunks_exact_mut(self.order).zip(columns);
        for ((z, column), (scale, pull)) in panel.zip(self.scales.iter().zip(&self.pulls)) {
            let other = &row(self.fixed, *column, self.width)[range.clone()];
            let other = S::as_simd_f32s(other).0;
            let z = S::as_mut_simd_f32s(&mut z[range.clone()]).0;
            let (scale, pull) = (simd.splat_f32s(*scale), simd.splat_f32s(*pull));
            for vector in 0..VECTORS {
                z[vector] = simd.mul_f32s(other[vector], scale);
                sums[vector] = simd.mul_add_f32s(other[vector], pull, sums[vector]);
            }
        }
        S::as_mut_simd_f32s(&mut self.pulled[range.clone()]).0.copy_from_slice(&sums);
        range.len()
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
