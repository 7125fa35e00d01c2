//! Half steps after each other, on blocks in the memory of one process.

use super::{AlsError, Axes, CHUNK, Fixed, HalfStep, KnownSums, Measures, Sums};
use crate::csr::Csr;
use rayon::ThreadPool;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A side of the matrix, or a part of it.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// How it is solved.
    pub step: HalfStep,
    /// Whether rows are solved along the axes of the other side: see [`HalfStep::turns`].
    pub turns: bool,
    /// Some of its blocks, or all, in the order of their rows.
    pub blocks: &'a [Arc<Csr<f32>>],
}

/// When an iteration is the last, although more were asked for: when the loss has fallen by less than a share of what it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Enough {
    /// The loss before the first iteration, as the bits of `f64`: a number that travels as text may lose the last of them,
    /// which one that stays in memory between iterations does not.
    pub before: Option<u64>,
    /// The share, as bits too.
    pub least: u64,
}

impl Enough {
    /// Whether the loss has hardly fallen, from `before` to `loss`.
    pub fn is_enough(least: f64, before: f64, loss: f64) -> bool {
        before - loss < least * before.abs()
    }

    /// Whether an iteration that came to this loss is the last.
    pub fn is_reached(&mut self, loss: f64) -> bool {
        let before = self.before.replace(loss.to_bits()).map(f64::from_bits);
        before.is_some_and(|before| Self::is_enough(f64::from_bits(self.least), before, loss))
    }
}

impl Side<'_> {
    /// A half step on the blocks, by the threads of a pool that the caller is not in: what was measured in each of them. The
    /// same, to the last bit, as one block by block.
    ///
    /// `factors` are those of all rows of the side. Rows of the blocks start from them, if they are solved in steps, and
    /// have new ones then. `turned` is room for the fixed rows along their axes, which half steps can share.
    pub fn half_step(
        &self,
        pool: &ThreadPool,
        fixed: Fixed<'_>,
        turned: &mut Vec<f32>,
        factors: &mut [f32],
    ) -> Result<Vec<Measures>, AlsError> {
        let (step, known) = (self.step, KnownSums::new());
        let axes = self.turns.then(|| Axes::new(fixed.gram, step.factors)).flatten();
        let fixed = match &axes {
            Some(axes) => {
                turned.resize(fixed.rows.len(), 0.0);
                let length = CHUNK * step.factors;
                let rows = turned.par_chunks_mut(length).zip(fixed.rows.par_chunks(length));
                let turn = |(turned, rows): (&mut [f32], &[f32])| {
                    turned.copy_from_slice(rows);
                    axes.turn(turned);
                };
                pool.install(|| rows.for_each(turn));
                Fixed { rows: turned, axes: Some(axes), gram: fixed.gram }
            }
            None => fixed,
        };
        let mut sums = vec![Sums::default(); self.blocks.len()];
        let blocks: Vec<_> = self.blocks.iter().map(|block| (&**block, &known)).collect();
        let mut parts = self.parts(factors);
        step.solve_together(pool, fixed, &blocks, &mut parts, &mut sums)?;
        let parts = parts.into_par_iter().with_max_len(1).zip(&sums);
        let measure = || parts.map(|(part, sums)| step.measure(fixed.gram, part, sums)).collect();
        Ok(pool.install(measure))
    }

    /// The factors of the blocks' rows, of those of all rows.
    fn parts<'f>(&self, factors: &'f mut [f32]) -> Vec<&'f mut [f32]> {
        let width = self.step.feedback.width(self.step.factors);
        let (mut rest, mut next) = (factors, 0);
        let part = |block: &Arc<Csr<f32>>| {
            let before = (block.first_row as usize).checked_sub(next)?;
            rest.split_off_mut(..before * width)?;
            next = block.first_row as usize + block.rows();
            rest.split_off_mut(..block.rows() * width)
        };
        self.blocks.iter().map_while(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::als::{Feedback, Regularization, Solver, gram};
    use crate::csr::Duplicates;
    use crate::random::starting_factors;

    #[test]
    fn half_steps_on_some_blocks_are_those_on_one() {
        // With more of them, exact ones are along the axes too.
        for factors in [20, 100] {
            compare_with_one_by_one(factors);
        }
    }

    fn compare_with_one_by_one(factors: usize) {
        let (users, items) = (90, 70);
        let entries = (0..users as u32)
            .flat_map(|user| (0..user % 31).map(move |at| (user, (user * 7 + at * at * 3) % 70)))
            .map(|(user, item)| (user, item, (user + item) as f32 % 4.0 - 0.5));
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_key(|(user, item, _)| (*user, *item));
        let block = |first: usize| {
            let count = 20.min(users - first);
            let here =
                |(user, ..): &&(u32, u32, f32)| (first..first + count).contains(&(*user as usize));
            let own = entries.iter().filter(here).copied();
            Arc::new(Csr::from_entries(first as u32, count, own, Duplicates::Add))
        };
        let blocks: Vec<_> = (0..users).step_by(20).map(block).collect();
        let regularization = Regularization { strength: 0.3, exponent: 0.5, unobserved: 1.0 };
        let feedbacks =
            [Feedback::Implicit { alpha: 4.0 }, Feedback::Explicit { bias: true, mean: 0.5 }];
        let solvers = [Solver::Exact, Solver::ConjugateGradient { steps: 2 }];
        for (feedback, solver) in feedbacks.into_iter().flat_map(|f| solvers.map(|s| (f, s))) {
            let width = feedback.width(factors);
            let step = HalfStep { feedback, regularization, solver, factors };
            let turns = step.turns(users as u64, entries.len() as u64);
            let [start, rows] =
                [users, items].map(|rows| starting_factors(rows as u64, 0, rows, width, width));
            let gram = gram(&rows, width, factors);
            let axes = turns.then(|| Axes::new(&gram, factors).unwrap());
            let mut turned_rows = rows.clone();
            axes.iter().for_each(|axes| axes.turn(&mut turned_rows));
            let along = Fixed { rows: &turned_rows, gram: &gram, axes: axes.as_ref() };
            for threads in 1..3 {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut turned = Vec::new();
                for own in [&[0, 1, 2, 3, 4][..], &[1, 4], &[0, 2, 3], &[]] {
                    let (mut found, mut expected) = (start.clone(), start.clone());
                    let of_blocks = own.iter().map(|at: &usize| {
                        let rows = at * 20 * width..users.min((at + 1) * 20) * width;
                        step.run(along, &blocks[*at], &mut expected[rows]).unwrap()
                    });
                    let measures: Vec<_> = of_blocks.collect();
                    let own: Vec<_> = own.iter().map(|at| Arc::clone(&blocks[*at])).collect();
                    let side = Side { step, turns, blocks: &own };
                    let fixed = Fixed::new(&rows, &gram);
                    let measured = side.half_step(&pool, fixed, &mut turned, &mut found).unwrap();
                    assert_eq!(measured, measures, "{feedback:?} {solver:?}");
                    assert_eq!(found, expected, "{feedback:?} {solver:?}");
                }
            }
        }
    }

    #[test]
    fn an_iteration_is_enough_when_the_loss_hardly_falls() {
        let losses = [10.0, 5.0, 4.0, 3.9];
        let reached = |before: Option<f64>, least: f64| {
            let least = least.to_bits();
            let mut enough = Enough { before: before.map(f64::to_bits), least };
            losses.iter().position(|loss| enough.is_reached(*loss))
        };
        assert_eq!(reached(None, 0.1), Some(3));
        assert_eq!(reached(None, 0.3), Some(2));
        // The first iteration counts, if it is known what was before it.
        assert_eq!([reached(Some(10.5), 0.1), reached(Some(100.0), 0.1)], [Some(0), Some(3)]);
        assert_eq!(reached(None, 0.01), None);
    }
}
