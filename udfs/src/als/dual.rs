//! Rows with fewer observations than unknowns, by as many equations as there are observations.
//!
//! Where what rows have in common is a diagonal D, the solution of `(D + ZᵀZ)x = Zᵀg` is `D⁻¹Zᵀt` for the t of
//! `(I + ZD⁻¹Zᵀ)t = g`, the dual problem of ridge regression (Saunders, Gammerman and Vovk, "Ridge Regression Learning
//! Algorithm in Dual Variables", ICML 1998). Most users of most shops have fewer observations than a model has factors. D is
//! the penalty alone for explicit feedback, and has the fixed side's Gram matrix in it along its axes ([`super::axes`]).

use super::common::Common;
use super::exact::{BATCHED_ORDER, PANEL_ROWS, ahead};
use super::gradient::inner;
use super::observations::{ABREAST, observe};
use super::rows::{Row, Solved};
use super::{Equations, Feedback, Fixed};
use crate::dense::{self, Batch, Columns, System, padded};
use pulp::Simd;

/// The room for rows that wait to be solved with others.
pub(super) struct Dual<'a> {
    feedback: Feedback,
    width: usize,
    fixed: Fixed<'a>,
    /// The diagonal of what all rows have in common.
    common: Vec<f32>,
    /// The inverse roots of the diagonal of a row.
    scales: Vec<f32>,
    /// `D^(-1/2)Zᵀ` of a row: `width` rows of as many numbers as there are equations.
    panel: Vec<f32>,
    /// The right side of the equations of as many unknowns as there are factors.
    target: Vec<f32>,
    /// By the order of the equations, in vectors: of each that is solved several at a time, and one for those beyond.
    classes: Vec<Class<'a>>,
}

/// Rows with equations of the same order.
struct Class<'a> {
    /// What can be solved together.
    slots: Vec<Slot>,
    systems: Vec<System>,
    /// Rows that wait, in the first slots.
    waiting: Vec<Row<'a>>,
    batch: Option<Batch>,
}

/// What is kept of a row until it is solved.
#[derive(Clone)]
struct Slot {
    /// The root of each observation's confidence.
    roots: Vec<f32>,
    /// How much each adds to the right side.
    pulls: Vec<f32>,
    /// The objective of a row of zeros.
    squares: f64,
}

/// The largest order of equations that are worth more than those of as many unknowns as there are: what is made besides them
/// takes time too.
fn most(width: usize) -> usize {
    padded(width) / 4 * 3
}

impl<'a> Dual<'a> {
    /// None if there are no rows for it.
    pub(super) fn new<S: Simd>(
        simd: S,
        feedback: Feedback,
        width: usize,
        fixed: Fixed<'a>,
    ) -> Option<Self> {
        let common = match (Common::new(feedback, fixed, width), feedback) {
            // Without confidence, an observation has no equation.
            (_, Feedback::Implicit { alpha }) if alpha <= 0.0 => return None,
            (Common::Diagonal(diagonal), _) => diagonal,
            (Common::Nothing, Feedback::Explicit { .. }) => vec![0.0; width],
            _ => return None,
        };
        let (most, lanes) = (most(width), S::F32_LANES);
        let batched = (dense::LANES..=most.min(BATCHED_ORDER)).step_by(dense::LANES);
        let mut classes: Vec<_> = batched.map(|order| Class::new(simd, order, lanes)).collect();
        classes.extend((most > BATCHED_ORDER).then(|| Class::new(simd, most, 1)));
        Some(Self {
            feedback,
            width,
            fixed,
            common,
            scales: vec![0.0; width],
            panel: vec![0.0; width * most],
            target: vec![0.0; width],
            classes,
        })
    }

    /// Which class a row belongs to, if any.
    pub(super) fn class(&self, row: &Row<'_>) -> Option<usize> {
        let order = padded(row.columns.len());
        let wanted = row.sums.is_none() && (1..=most(self.width)).contains(&order);
        wanted.then(|| (order / dense::LANES).min(self.classes.len()) - 1)
    }

    /// Takes a row of a class. True if there are enough of the class to solve them.
    #[inline(always)]
    pub(super) fn take<S: Simd>(&mut self, simd: S, row: Row<'a>, class: usize) -> bool {
        self.gather(simd, &row, class);
        let class = &mut self.classes[class];
        class.waiting.push(row);
        class.is_full()
    }

    /// Solves what waits: where there are enough, or all.
    #[inline(always)]
    pub(super) fn solve<S: Simd>(
        &mut self,
        simd: S,
        all: bool,
        solved: &mut Solved<'_>,
        precise: &mut Equations,
    ) {
        for class in 0..self.classes.len() {
            if all || self.classes[class].is_full() {
                self.solve_class(simd, class, solved, precise);
            }
        }
    }

    /// Finds the inverse roots of the diagonal of a row with this penalty.
    #[inline(always)]
    fn scale(&mut self, lambda: f64) {
        for (scale, common) in self.scales.iter_mut().zip(&self.common) {
            *scale = 1.0 / (common + lambda as f32).sqrt();
        }
    }

    /// Gathers the equations of a row.
    #[inline(always)]
    fn gather<S: Simd>(&mut self, simd: S, row: &Row<'a>, class: usize) {
        self.scale(row.lambda);
        let (count, width, feedback) = (row.columns.len(), self.width, self.feedback);
        let (order, class) = (padded(count), &mut self.classes[class]);
        let at = class.waiting.len();
        let (Slot { roots, pulls, squares }, system) =
            (&mut class.slots[at], &mut class.systems[at]);
        roots.resize(count, 0.0);
        pulls.resize(count, 0.0);
        let observations = (row.columns, row.weights);
        *squares = observe(feedback, self.fixed, width, observations, (&mut *roots, &mut *pulls));
        system.set_order(order);
        system.matrix.fill(0.0);
        (0..order).for_each(|at| system.matrix[at * (order + 1)] = 1.0);
        system.unknowns[count..].fill(0.0);
        for ((right, root), pull) in system.unknowns.iter_mut().zip(&mut *roots).zip(&*pulls) {
            *root = root.sqrt();
            // An observation that counts for nothing pulls nowhere.
            *right = if *pull == 0.0 { 0.0 } else { pull / *root };
        }
        let (rows, chosen, scales) = (self.fixed.rows, row.columns, &self.scales[..]);
        let panel = &mut self.panel[..width * order];
        let columns = Columns { rows, width, chosen, factors: roots, scales };
        columns.gather(simd, panel, order);
        if feedback.has_bias() {
            let (bias, scale) = (&mut panel[(width - 1) * order..], scales[width - 1]);
            bias.iter_mut().zip(roots).for_each(|(to, root)| *to = *root * scale);
        }
        // What is fetched meanwhile, as many rows as these, is spread over the chunks.
        let next = ahead(&row.following[count..], count);
        let next = &next[..count.min(next.len())];
        let chunks = width.div_ceil(PANEL_ROWS);
        let mut next = next.chunks(count.div_ceil(chunks));
        for panel in panel.chunks(PANEL_ROWS * order) {
            let next = next.next().unwrap_or_default();
            let ahead = dense::Ahead { rows, next, width };
            dense::add_products(simd, &mut system.matrix, None, panel, order, ahead);
        }
    }

    /// Solves the rows of a class that wait.
    #[inline(always)]
    fn solve_class<S: Simd>(
        &mut self,
        simd: S,
        class: usize,
        solved: &mut Solved<'_>,
        precise: &mut Equations,
    ) {
        let count = self.classes[class].waiting.len();
        if count == 0 {
            return;
        }
        let Class { systems, batch, .. } = &mut self.classes[class];
        match batch {
            Some(batch) => batch.solve(simd, &mut systems[..count]),
            None => {
                for system in systems.iter_mut() {
                    system.solve(simd);
                }
            }
        }
        for at in 0..count {
            self.scale(self.classes[class].waiting[at].lambda);
            let Self { classes, scales, target, fixed, width, .. } = self;
            let Class { slots, systems, waiting, .. } = &mut classes[class];
            let (row, Slot { roots, pulls, squares }) = (&waiting[at], &slots[at]);
            let (system, solution) = (&mut systems[at], solved.row(row));
            let factors = system.unknowns.iter_mut().zip(roots);
            factors.for_each(|(factor, root)| *factor *= root);
            let factors = &system.unknowns[..roots.len()];
            target.fill(0.0);
            solution.fill(0.0);
            let groups = row.columns.chunks_exact(ABREAST);
            let rest = groups.len() * ABREAST;
            for (group, columns) in groups.enumerate() {
                let first = group * ABREAST;
                let rows: [&[f32]; ABREAST] =
                    std::array::from_fn(|at| fixed.row(columns[at], *width));
                let of_rows = std::array::from_fn(|at| factors[first + at]);
                dense::add_multiples(simd, rows, of_rows, solution);
                dense::add_multiples(
                    simd,
                    rows,
                    std::array::from_fn(|at| pulls[first + at]),
                    target,
                );
            }
            for (at, column) in row.columns.iter().enumerate().skip(rest) {
                let row = fixed.row(*column, *width);
                dense::add_multiples(simd, [row], [factors[at]], solution);
                dense::add_multiples(simd, [row], [pulls[at]], target);
            }
            if self.feedback.has_bias() {
                // Observations have 1 in the place of the bias.
                solution[*width - 1] = factors.iter().sum();
                target[*width - 1] = pulls.iter().sum();
            }
            let values = solution.iter_mut().zip(&*scales);
            values.for_each(|(value, scale)| *value *= scale * scale);
            if system.definite && solution.iter().all(|value| value.is_finite()) {
                // At its minimum, an objective xᵀAx − 2bᵀx + s is s − bᵀx.
                let gain = inner(target, solution);
                solved.done(row, squares - gain);
            } else {
                match precise.solve_row(self.feedback, self.fixed, row, None, solution) {
                    Some(gain) => solved.done(row, squares - gain),
                    None => solved.is_singular(row),
                }
            }
        }
        self.classes[class].waiting.clear();
    }
}

impl Class<'_> {
    /// Room for so many rows with equations of this order, or with such of one order after another if it is for one.
    fn new<S: Simd>(simd: S, order: usize, lanes: usize) -> Self {
        let slot = Slot { roots: Vec::new(), pulls: Vec::new(), squares: 0.0 };
        Self {
            slots: vec![slot; lanes],
            systems: vec![System::new(order); lanes],
            waiting: Vec::with_capacity(lanes),
            batch: (lanes > 1).then(|| Batch::new(simd, order)),
        }
    }

    /// Whether as many rows wait as can be solved together.
    fn is_full(&self) -> bool {
        self.waiting.len() == self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use crate::als::{Axes, Feedback, Fixed, HalfStep, Regularization, Solver, gram};
    use crate::csr::{Csr, Duplicates};
    use crate::random::starting_factors;
    use proptest::prelude::*;

    const ITEMS: usize = 200;

    /// The solution of a row in double precision, by elimination, and its objective.
    fn slow(
        step: &HalfStep,
        items: &[f32],
        (columns, weights): (&[u32], &[f32]),
    ) -> (Vec<f64>, f64) {
        let width = step.feedback.width(step.factors);
        let row = |item: usize| -> Vec<f64> {
            let mut row: Vec<f64> =
                items[item * width..][..width].iter().map(|value| f64::from(*value)).collect();
            if step.feedback.has_bias() {
                row[width - 1] = 1.0;
            }
            row
        };
        // Each item counts with a confidence, for a value.
        let pairs: Vec<(Vec<f64>, f64, f64)> = match step.feedback {
            Feedback::Implicit { alpha } => (0..ITEMS)
                .map(|item| {
                    let own = columns.iter().position(|column| *column as usize == item);
                    let weight = own.map_or(0.0, |own| f64::from(weights[own]));
                    (row(item), 1.0 + alpha * weight.abs(), f64::from(u8::from(weight > 0.0)))
                })
                .collect(),
            Feedback::Explicit { bias, mean } => columns
                .iter()
                .zip(weights)
                .map(|(item, weight)| {
                    let others = if bias { items[*item as usize * width + width - 1] } else { 0.0 };
                    (row(*item as usize), 1.0, f64::from(*weight) - mean - f64::from(others))
                })
                .collect(),
        };
        let lambda = step.regularization.of_row(columns.len());
        let mut equations: Vec<Vec<f64>> = (0..width)
            .map(|at| {
                let mut equation = vec![0.0; width + 1];
                equation[at] = lambda;
                for (z, confidence, value) in &pairs {
                    let factor = confidence * z[at];
                    equation.iter_mut().zip(z).for_each(|(sum, z)| *sum += factor * z);
                    equation[width] += factor * value;
                }
                equation
            })
            .collect();
        // Elimination, and the solution from the last unknown on.
        for pivot in 0..width {
            let (done, below) = equations.split_at_mut(pivot + 1);
            for equation in below {
                let factor = equation[pivot] / done[pivot][pivot];
                let pairs = equation[pivot..].iter_mut().zip(&done[pivot][pivot..]);
                pairs.for_each(|(value, of_pivot)| *value -= factor * of_pivot);
            }
        }
        let mut x = vec![0.0; width];
        for at in (0..width).rev() {
            let known: f64 = (at + 1..width).map(|after| equations[at][after] * x[after]).sum();
            x[at] = (equations[at][width] - known) / equations[at][at];
        }
        let left = pairs
            .iter()
            .map(|(z, _, value)| value - z.iter().zip(&x).map(|(z, x)| z * x).sum::<f64>());
        let left: Vec<f64> = left.collect();
        let squares =
            pairs.iter().zip(&left).map(|((_, confidence, _), left)| confidence * left * left);
        let objective = squares.sum::<f64>() + lambda * x.iter().map(|x| x * x).sum::<f64>();
        (x, objective)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Rows of every class, and some that have too many observations for any.
        #[test]
        fn rows_with_few_observations_are_solved(
            factors in prop_oneof![Just(33usize), Just(64), Just(130)],
            lengths in prop::collection::vec(0usize..110, 1..24),
            implicit in any::<bool>(),
            bias in any::<bool>(),
            exponent in prop_oneof![Just(0.0), 0.0f64..1.0],
            seed in any::<u64>(),
        ) {
            let feedback = match implicit {
                true => Feedback::Implicit { alpha: 3.0 },
                false => Feedback::Explicit { bias, mean: 0.5 },
            };
            let regularization = Regularization { strength: 2.0, exponent, unobserved: 1.0 };
            let step = HalfStep { feedback, regularization, solver: Solver::Exact, factors };
            let width = feedback.width(factors);
            let items: Vec<f32> = starting_factors(seed, 0, ITEMS, width, width)
                .iter().map(|value| value * 5.0).collect();
            let weight = |user: usize, at: usize| ((user + 3 * at) % 5) as f32 - 1.0;
            let entries = lengths.iter().enumerate().flat_map(|(user, length)| {
                (0..*length).map(move |at| (user as u32, ((user + at * 3) % ITEMS) as u32, weight(user, at)))
            });
            let block = Csr::from_entries(0, lengths.len(), entries, Duplicates::Add);
            let items_gram = gram(&items, width, factors);
            let axes = implicit.then(|| Axes::new(&items_gram, factors).unwrap());
            let mut rows = items.clone();
            axes.iter().for_each(|axes| axes.turn(&mut rows));
            let fixed = Fixed { rows: &rows, gram: &items_gram, axes: axes.as_ref() };
            let mut users = vec![0.0; lengths.len() * width];
            let measures = step.run(fixed, &block, &mut users).unwrap();

            let mut expected_total = 0.0;
            for (user, found) in users.chunks_exact(width).enumerate() {
                let (expected, objective) = slow(&step, &items, block.row(user));
                expected_total += objective;
                let size = expected.iter().fold(1.0f64, |most, value| most.max(value.abs()));
                for (found, expected) in found.iter().zip(&expected) {
                    let error = (f64::from(*found) - expected).abs();
                    prop_assert!(error < 2e-5 * size, "user {user}: {found} {expected}");
                }
            }
            let mut total = measures.observed_loss + measures.penalty;
            if implicit {
                total += crate::als::unobserved_loss(&measures.gram, &items_gram);
            }
            prop_assert!((total - expected_total).abs() < 1e-5 * expected_total.max(1.0), "{total} {expected_total}");
        }
    }
}
