//! Rows by some of their factors at a time: the equations of those are made and solved exactly, while what the
//! other factors predict stays as it is. The work for a row grows with the factors, not with their square.

use super::common::Common;
use super::exact::PANEL_ROWS;
use super::gradient::inner;
use super::observations::{ABREAST, Observations};
use super::rows::{Row, SolveRow};
use super::{CHUNK, Equations, Feedback, Fixed};
use crate::dense::{self, Ahead, System};
use pulp::Simd;
use std::ops::Range;

/// The room for a row.
pub(super) struct Subspace<'a> {
    feedback: Feedback,
    width: usize,
    fixed: Fixed<'a>,
    observations: Observations<'a>,
    common: Common,
    parts: Vec<Part>,
    /// The root of each observation's confidence.
    scales: Vec<f32>,
    /// What the row predicts for each observation, times that root.
    predictions: Vec<f32>,
    /// Some observations' numbers of a part, each times the root of its confidence.
    panel: Vec<f32>,
    /// The right side of the row's equations.
    target: Vec<f64>,
    /// What the row's factors add to the left side without the observations.
    unobserved: Vec<f32>,
    precise: Equations,
}

/// Factors that are solved together.
struct Part {
    range: Range<usize>,
    order: usize,
    /// Their part of what the equations of every row have in common.
    base: Vec<f32>,
    system: System,
    /// Sums of chunks.
    matrix: Vec<f64>,
    /// The negative gradient, of a panel and of all.
    pulled: Vec<f32>,
    gradient: Vec<f64>,
}

impl<'a> Subspace<'a> {
    pub(super) fn new(feedback: Feedback, width: usize, fixed: Fixed<'a>, factors: usize) -> Self {
        let common = Common::new(feedback, fixed, width);
        let part = |first: usize| {
            let range = first..(first + factors).min(width);
            let order = dense::padded(range.len());
            let base = common.square(range.clone(), width, order);
            let (system, matrix) = (System::new(order), vec![0.0; order * order]);
            let (pulled, gradient) = (vec![0.0; order], vec![0.0; order]);
            Part { range, order, base, system, matrix, pulled, gradient }
        };
        let parts: Vec<_> = (0..width).step_by(factors).map(part).collect();
        let widest = parts.iter().map(|part| part.order).max().unwrap_or(0);
        Self {
            feedback,
            width,
            fixed,
            observations: Observations::new(feedback, width, fixed),
            parts,
            common,
            scales: Vec::new(),
            predictions: Vec::new(),
            panel: vec![0.0; PANEL_ROWS * widest],
            target: vec![0.0; width],
            unobserved: vec![0.0; width],
            precise: Equations::new(width),
        }
    }
}

impl SolveRow for Subspace<'_> {
    #[inline(always)]
    fn solve_row<S: Simd>(&mut self, simd: S, row: &Row<'_>, solution: &mut [f32]) -> Option<f64> {
        let squares = self.observations.read(row);
        self.scales.clear();
        self.scales.extend(self.observations.confidences.iter().map(|value| value.sqrt()));
        self.predictions.clear();
        self.target.fill(0.0);
        let predictions = &mut self.predictions;
        let start = |confidence: f32, pull: f32, product: f32| {
            predictions.push(confidence.sqrt() * product);
            pull
        };
        self.observations.add(simd, row.columns, solution, &mut self.target, start);
        self.common.product(simd, row.lambda, solution, &mut self.unobserved);

        for at in 0..self.parts.len() {
            self.gather(simd, at, row);
            let Self { parts, common, unobserved, .. } = self;
            let Part { range, order, system, gradient, .. } = &mut parts[at];
            for diagonal in 0..range.len() {
                system.matrix[diagonal * (*order + 1)] += row.lambda as f32;
            }
            system.unknowns.fill(0.0);
            let known = self.target[range.clone()].iter().zip(&unobserved[range.clone()]);
            for (unknown, (sum, (target, unobserved))) in
                system.unknowns.iter_mut().zip(gradient.iter().zip(known))
            {
                *unknown = (target - f64::from(*unobserved) + sum) as f32;
            }
            system.solve(simd);
            let steps = &system.unknowns[..range.len()];
            if !(system.definite && steps.iter().all(|step| step.is_finite())) {
                let Self { precise, feedback, fixed, .. } = self;
                let gain = precise.solve_row(*feedback, *fixed, row, None, solution)?;
                return Some(squares - gain);
            }
            for (value, step) in solution[range.clone()].iter_mut().zip(steps) {
                *value += step;
            }
            common.add_change(simd, row.lambda, (range.start, steps), unobserved);
            self.predict(simd, at, row);
        }
        let observed: f64 = self.predictions.iter().map(|value| f64::from(*value).powi(2)).sum();
        let gain: f64 = self.target.iter().zip(&*solution).map(|(b, x)| b * f64::from(*x)).sum();
        Some(observed + inner(&self.unobserved, solution) - 2.0 * gain + squares)
    }
}

impl Subspace<'_> {
    /// Adds up the observations' numbers of a part: their products with each other, and with what is predicted.
    #[inline(always)]
    fn gather<S: Simd>(&mut self, simd: S, at: usize, row: &Row<'_>) {
        let Self { parts, panel, scales, predictions, fixed, .. } = self;
        let Part { range, order, base, system, matrix, pulled, gradient } = &mut parts[at];
        let (order, width) = (*order, self.width);
        // A bias is the last number, and the observations have 1 in its place.
        let bias = (self.feedback.has_bias() && range.end == width).then_some(range.len() - 1);
        gradient.fill(0.0);
        let chunks = row.columns.len().div_ceil(CHUNK).max(1);
        match chunks {
            1 => system.matrix.copy_from_slice(base),
            _ => {
                let sums = matrix.iter_mut().zip(&*base);
                sums.for_each(|(sum, base)| *sum = f64::from(*base));
            }
        }
        let mut first = 0;
        for columns in row.columns.chunks(CHUNK) {
            if chunks > 1 {
                system.matrix.fill(0.0);
            }
            for columns in columns.chunks(PANEL_ROWS) {
                let behind = first + columns.len();
                let (scales, predictions) = (&scales[first..behind], &predictions[first..behind]);
                pulled.fill(0.0);
                let rows = panel.chunks_exact_mut(order).zip(columns);
                for ((z, column), scale) in rows.zip(scales) {
                    let other = &fixed.row(*column, width)[range.clone()];
                    let (heads, rest) = S::as_simd_f32s(other);
                    let whole = other.len() - rest.len();
                    let factor = simd.splat_f32s(*scale);
                    let (z, tail) = z.split_at_mut(whole);
                    for (z, other) in S::as_mut_simd_f32s(z).0.iter_mut().zip(heads) {
                        *z = simd.mul_f32s(*other, factor);
                    }
                    tail.iter_mut().zip(rest).for_each(|(z, other)| *z = other * scale);
                    tail[rest.len()..].fill(0.0);
                    if let Some(bias) = bias {
                        // The bias is in the tail unless it fills the last vector.
                        match bias.checked_sub(whole) {
                            Some(bias) => tail[bias] = *scale,
                            None => z[bias] = *scale,
                        }
                    }
                }
                let panel = &panel[..columns.len() * order];
                let groups = predictions.chunks_exact(ABREAST);
                let rest = groups.remainder();
                for (z, predictions) in panel.chunks_exact(ABREAST * order).zip(groups) {
                    let rows: [&[f32]; ABREAST] =
                        std::array::from_fn(|at| &z[at * order..][..order]);
                    let factors = std::array::from_fn(|at| -predictions[at]);
                    dense::add_multiples(simd, rows, factors, pulled);
                }
                let behind_groups = &panel[(predictions.len() - rest.len()) * order..];
                for (z, prediction) in behind_groups.chunks_exact(order).zip(rest) {
                    dense::add_multiples(simd, [z], [-prediction], pulled);
                }
                dense::add_products(simd, &mut system.matrix, None, panel, order, Ahead::NOTHING);
                let sums = gradient.iter_mut().zip(&*pulled);
                sums.for_each(|(sum, panel)| *sum += f64::from(*panel));
                first = behind;
            }
            if chunks > 1 {
                let sums = matrix.iter_mut().zip(&system.matrix);
                sums.for_each(|(sum, chunk)| *sum += f64::from(*chunk));
            }
        }
        if chunks > 1 {
            let sums = system.matrix.iter_mut().zip(&*matrix);
            sums.for_each(|(value, sum)| *value = *sum as f32);
        }
    }

    /// Adds what the steps of a part change to the predictions.
    #[inline(always)]
    fn predict<S: Simd>(&mut self, simd: S, at: usize, row: &Row<'_>) {
        let Part { range, system, .. } = &self.parts[at];
        let steps = &system.unknowns[..range.len()];
        let bias = self.feedback.has_bias() && range.end == self.width;
        let (fixed, width) = (self.fixed, self.width);
        let part = |column: u32| &fixed.row(column, width)[range.clone()];
        let change = |product: f32, other: &[f32]| match (bias, other.last(), steps.last()) {
            (true, Some(own), Some(step)) => product + (1.0 - own) * step,
            _ => product,
        };
        let groups = row.columns.chunks_exact(ABREAST);
        let rest = groups.remainder();
        let mut observations = self.scales.iter().zip(&mut self.predictions);
        for group in groups {
            let others: [&[f32]; ABREAST] = std::array::from_fn(|at| part(group[at]));
            let products = dense::inner_products(simd, others, steps);
            for ((product, other), (scale, prediction)) in
                products.iter().zip(others).zip(&mut observations)
            {
                *prediction += scale * change(*product, other);
            }
        }
        for (column, (scale, prediction)) in rest.iter().zip(observations) {
            let [product] = dense::inner_products(simd, [part(*column)], steps);
            *prediction += scale * change(product, part(*column));
        }
    }
}
