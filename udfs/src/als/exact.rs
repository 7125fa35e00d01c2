//! Rows by their normal equations.
//!
//! Most of a training is here: a row's observations are gathered in a panel, whose products with itself are
//! its normal equations. They are added up in `f32` for [`CHUNK`] observations at a time, and beyond that
//! in `f64`. Where the decomposition loses too many digits, the row is solved again in `f64`. Rows with few observations are
//! left to [`super::dual`].

use super::common::Common;
use super::dual::Dual;
use super::nonnegative::NonNegative;
use super::observations::observe;
use super::rows::{Row, SolveRows, Solved};
use super::{CHUNK, Equations, Feedback, Fixed, RowSums};
use crate::dense::{self, Ahead, Batch, System};
use crate::prefetch;
use pulp::Simd;

/// Observations that are gathered before they are multiplied: with 64 factors, they and their products fill a first cache.
pub(super) const PANEL_ROWS: usize = 64;

/// How many observations before it is gathered a row is fetched: more than there are in a panel, so that one that is
/// longer than that before it finds its rows as well.
const DISTANCE: usize = 3 * PANEL_ROWS;

/// The largest order of equations that are solved several at a time: as many of those that are larger as a vector has lanes
/// don't fit into a second cache.
pub(super) const BATCHED_ORDER: usize = 64;

/// What is to be fetched while the last `count` of the observations before `following` are added up, and more after it.
pub(super) fn ahead(following: &[u32], count: usize) -> &[u32] {
    following.get(DISTANCE.saturating_sub(count)..).unwrap_or_default()
}

/// The room for the equations of some rows.
pub(super) struct Exact<'a> {
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
    /// The sums of the chunks before.
    earlier: Vec<f64>,
    /// The right side of a panel.
    pulled: Vec<f32>,
    /// The equations of the row that is gathered. The matrix holds the sums of a chunk at first.
    system: System,
    right: Right,
    /// Those of the rows that are solved together.
    systems: Vec<System>,
    rights: Vec<Right>,
    /// Rows whose equations are gathered, in the first of these.
    waiting: Vec<Row<'a>>,
    /// What solves them, if there can be several.
    batch: Option<Batch>,
    /// What solves rows with few observations.
    dual: Option<Dual<'a>>,
    nonnegative: Option<NonNegative>,
    precise: Equations,
}

/// What the observations of a row add up to, but for the matrix.
#[derive(Clone)]
struct Right {
    /// The right side of the equations.
    target: Vec<f64>,
    /// The objective of a row of zeros.
    squares: f64,
}

impl Right {
    fn new(order: usize) -> Self {
        Self { target: vec![0.0; order], squares: 0.0 }
    }
}

impl<'a> Exact<'a> {
    /// Room for equations of `width` unknowns, whose factors can be kept from being negative.
    pub(super) fn new<S: Simd>(
        simd: S,
        feedback: Feedback,
        width: usize,
        fixed: Fixed<'a>,
        nonnegative: bool,
    ) -> Self {
        let order = dense::padded(width);
        let base = Common::new(feedback, fixed, width).square(0..width, width, order);
        let lanes = if order <= BATCHED_ORDER && !nonnegative { S::F32_LANES } else { 1 };
        Self {
            feedback,
            width,
            order,
            fixed,
            base,
            panel: vec![0.0; PANEL_ROWS * order],
            scales: [0.0; PANEL_ROWS],
            pulls: [0.0; PANEL_ROWS],
            earlier: vec![0.0; order * order],
            pulled: vec![0.0; order],
            system: System::new(order),
            right: Right::new(order),
            systems: vec![System::new(order); lanes],
            rights: vec![Right::new(order); lanes],
            waiting: Vec::with_capacity(lanes),
            batch: (lanes > 1).then(|| Batch::new(simd, width)),
            dual: (!nonnegative).then(|| Dual::new(simd, feedback, width, fixed)).flatten(),
            nonnegative: nonnegative
                .then(|| NonNegative::new(width - usize::from(feedback.has_bias()), width)),
            precise: Equations::new(width),
        }
    }

    /// Adds up the observations of a row.
    #[inline(always)]
    fn gather<S: Simd>(&mut self, simd: S, row: &Row<'_>) {
        self.right.squares = 0.0;
        self.right.target.fill(0.0);
        if row.sums.is_none() && row.columns.len() <= CHUNK {
            if row.weights.is_empty() {
                self.system.matrix.copy_from_slice(&self.base);
            }
            self.gather_chunk(simd, row.weights, row.following, true);
            return;
        }
        let base = self.earlier.iter_mut().zip(&self.base);
        base.for_each(|(sum, base)| *sum = f64::from(*base));
        match row.sums {
            Some(sums) => self.add_sums(sums),
            None => self.gather_chunks(simd, row.weights, row.following),
        }
        let sums = self.system.matrix.iter_mut().zip(&self.earlier);
        sums.for_each(|(value, sum)| *value = *sum as f32);
    }

    /// Adds observations to the sums in double precision. `following` begins with their columns.
    #[inline(always)]
    fn gather_chunks<S: Simd>(&mut self, simd: S, weights: &[f32], mut following: &[u32]) {
        for weights in weights.chunks(CHUNK) {
            self.system.matrix.fill(0.0);
            self.gather_chunk(simd, weights, following, false);
            following = &following[weights.len()..];
            let columns = self.earlier.chunks_exact_mut(self.order);
            let columns = columns.zip(self.system.matrix.chunks_exact(self.order));
            for (diagonal, (sums, chunk)) in columns.enumerate() {
                let sums = sums[diagonal..].iter_mut().zip(&chunk[diagonal..]);
                sums.for_each(|(sum, chunk)| *sum += f64::from(*chunk));
            }
        }
    }

    /// Adds observations to the sums in single precision, or to what every row begins with if they are the `first`.
    /// `following` begins with their columns.
    #[inline(always)]
    fn gather_chunk<S: Simd>(
        &mut self,
        simd: S,
        weights: &[f32],
        mut following: &[u32],
        mut first: bool,
    ) {
        for weights in weights.chunks(PANEL_ROWS) {
            let (columns, next) = following.split_at(weights.len());
            following = next;
            // A panel takes so long that the processor has forgotten that they come one after another.
            prefetch::numbers(weights.as_ptr().wrapping_add(DISTANCE), weights.len());
            self.gather_panel(simd, columns, weights);
            let next = ahead(next, columns.len());
            let ahead = Ahead { rows: self.fixed.rows, next, width: self.width };
            let panel = &self.panel[..weights.len() * self.order];
            let base = first.then_some(self.base.as_slice());
            dense::add_products(simd, &mut self.system.matrix, base, panel, self.order, ahead);
            first = false;
        }
    }

    /// Adds what [`RowSums`] hold.
    fn add_sums(&mut self, sums: &RowSums) {
        let (width, order) = (self.width, self.order);
        let (matrix, target, squares) = sums.parts(width);
        for (to, from) in self.earlier.chunks_exact_mut(order).zip(matrix.chunks_exact(width)) {
            to.iter_mut().zip(from).for_each(|(sum, value)| *sum += value);
        }
        self.right.target.iter_mut().zip(target).for_each(|(sum, value)| *sum += value);
        self.right.squares += squares;
    }

    /// Adds some observations of a row to its sums, in which they are to be all after those before.
    #[inline(always)]
    pub(super) fn add_to<S: Simd>(
        &mut self,
        simd: S,
        (columns, weights): (&[u32], &[f32]),
        sums: &mut RowSums,
    ) {
        self.earlier.fill(0.0);
        self.right.target.fill(0.0);
        self.right.squares = 0.0;
        self.add_sums(sums);
        self.gather_chunks(simd, weights, columns);
        let (width, order) = (self.width, self.order);
        sums.0.clear();
        for column in self.earlier.chunks_exact(order).take(width) {
            sums.0.extend_from_slice(&column[..width]);
        }
        sums.0.extend_from_slice(&self.right.target[..width]);
        sums.0.push(self.right.squares);
    }

    /// Gathers a panel of observations, and adds them to the right side.
    #[inline(always)]
    fn gather_panel<S: Simd>(&mut self, simd: S, columns: &[u32], weights: &[f32]) {
        let (scales, pulls) = (&mut self.scales[..columns.len()], &mut self.pulls[..columns.len()]);
        let (feedback, fixed, width) = (self.feedback, self.fixed, self.width);
        self.right.squares +=
            observe(feedback, fixed, width, (columns, weights), (&mut *scales, pulls));
        scales.iter_mut().for_each(|scale| *scale = scale.sqrt());
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
        if first < self.width || self.feedback.has_bias() {
            self.gather_rest(columns, first);
        }
        let sums = self.right.target.iter_mut().zip(&self.pulled);
        sums.for_each(|(sum, panel)| *sum += f64::from(*panel));
    }

    /// Gathers what is left of the rows of a panel, from the number `first` on, and the biases.
    #[inline(always)]
    fn gather_rest(&mut self, columns: &[u32], first: usize) {
        let panel = self.panel.chunks_exact_mut(self.order).zip(columns);
        for ((z, column), (scale, pull)) in panel.zip(self.scales.iter().zip(&self.pulls)) {
            let other = self.fixed.row(*column, self.width);
            for at in first..self.width {
                z[at] = other[at] * scale;
                self.pulled[at] += other[at] * pull;
            }
            if let (true, Some(bias)) = (self.feedback.has_bias(), other.last()) {
                self.pulled[self.width - 1] += pull * (1.0 - bias);
                z[self.width - 1] = 1.0;
            }
        }
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
            let other = &self.fixed.row(*column, self.width)[range.clone()];
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

    /// Gathers the equations of a row.
    #[inline(always)]
    fn prepare<S: Simd>(&mut self, simd: S, row: &Row<'_>) {
        self.gather(simd, row);
        let system = &mut self.system;
        for diagonal in 0..self.width {
            system.matrix[diagonal * (self.order + 1)] += row.lambda as f32;
        }
        let values = system.unknowns.iter_mut().zip(&self.right.target);
        values.for_each(|(value, target)| *value = *target as f32);
    }

    /// Solves the rows that wait.
    #[inline(always)]
    fn solve_waiting<S: Simd>(&mut self, simd: S, solved: &mut Solved<'_>) {
        let systems = &mut self.systems[..self.waiting.len()];
        match (&mut self.batch, &mut self.nonnegative) {
            _ if systems.is_empty() => {}
            (Some(batch), _) => batch.solve(simd, systems),
            (None, Some(nonnegative)) => {
                for system in systems {
                    nonnegative.solve(simd, system);
                }
            }
            (None, None) => {
                for system in systems {
                    system.solve(simd);
                }
            }
        }
        for ((row, system), right) in self.waiting.iter().zip(&self.systems).zip(&self.rights) {
            let solution = solved.row(row);
            // At its minimum, an objective xᵀAx − 2bᵀx + s is s − bᵀx. That of non-negative unknowns is there as well,
            // because each of them is zero or its derivative is.
            let mut gain = 0.0;
            if system.definite && system.unknowns.iter().all(|value| value.is_finite()) {
                let values = system.unknowns.iter().zip(&right.target);
                for (out, (value, target)) in solution.iter_mut().zip(values) {
                    *out = *value;
                    gain += f64::from(*value) * target;
                }
            } else {
                let constrained = self.nonnegative.as_ref().map(NonNegative::constrained);
                let (feedback, fixed) = (self.feedback, self.fixed);
                let found = self.precise.solve_row(feedback, fixed, row, constrained, solution);
                let Some(found) = found else {
                    solved.is_singular(row);
                    continue;
                };
                gain = found;
            }
            solved.done(row, right.squares - gain);
        }
        self.waiting.clear();
    }
}

impl<'a> SolveRows<'a> for Exact<'a> {
    #[inline(always)]
    fn take<S: Simd>(&mut self, simd: S, row: Row<'a>, _: &mut Solved<'_>) -> bool {
        if let Some(dual) = &mut self.dual
            && let Some(class) = dual.class(&row)
        {
            return dual.take(simd, row, class);
        }
        self.prepare(simd, &row);
        let at = self.waiting.len();
        std::mem::swap(&mut self.system, &mut self.systems[at]);
        std::mem::swap(&mut self.right, &mut self.rights[at]);
        self.waiting.push(row);
        self.waiting.len() == self.systems.len()
    }

    #[inline(always)]
    fn solve<S: Simd>(&mut self, simd: S, all: bool, solved: &mut Solved<'_>) {
        if all || self.waiting.len() == self.systems.len() {
            self.solve_waiting(simd, solved);
        }
        if let Some(dual) = &mut self.dual {
            dual.solve(simd, all, solved, &mut self.precise);
        }
    }
}
