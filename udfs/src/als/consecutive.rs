//! Half steps after each other, where all blocks of both sides are in the memory of one process.

use super::{AlsError, Axes, CHUNK, Fixed, HalfStep, KnownSums, Measures, Sums};
use crate::csr::Csr;
use rayon::ThreadPool;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A side of the matrix.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// How it is solved.
    pub step: HalfStep,
    /// All of its rows.
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
}

/// What several half steps come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The factors of both sides after the last one, in the order of the sides.
    pub factors: [Vec<f32>; 2],
    /// What each half step came to.
    pub measures: Vec<Measures>,
}

impl Side<'_> {
    /// Whether its rows are solved along the axes of the other side.
    fn turns(&self) -> bool {
        let rows = self.blocks.iter().map(|block| block.rows() as u64).sum();
        let observations = self.blocks.iter().map(|block| block.columns.len() as u64).sum();
        self.step.turns(rows, observations)
    }

    /// A half step, by the threads of a pool that the caller is not in. The same as one block by block, whose measures are
    /// added up in the order of the blocks. `turned` is room for the fixed rows along their axes.
    fn half_step(
        &self,
        pool: &ThreadPool,
        fixed: Fixed<'_>,
        turned: &mut Vec<f32>,
        factors: &mut [f32],
    ) -> Result<Measures, AlsError> {
        let (step, known) = (self.step, KnownSums::new());
        let axes = self.turns().then(|| Axes::new(fixed.gram, step.factors)).flatten();
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
        step.solve_together(pool, fixed, &blocks, factors, &mut sums)?;
        let (mut rest, width) = (&*factors, step.feedback.width(step.factors));
        let parts = self.blocks.iter().map(|block| {
            let (part, others) = rest.split_at(block.rows() * width);
            rest = others;
            part
        });
        let parts: Vec<&[f32]> = parts.collect();
        let parts = parts.into_par_iter().with_max_len(1).zip(&sums);
        let measure = || parts.map(|(part, sums)| step.measure(fixed.gram, part, sums)).collect();
        let measured: Vec<Measures> = pool.install(measure);
        let mut total = Measures::new(step.factors);
        measured.iter().for_each(|block| total.add(block));
        Ok(total)
    }
}

/// As many half steps as asked, of both sides in turn, or fewer if an iteration, which is one of each, was `enough` before,
/// or if the caller doesn't want to `go_on` after it.
///
/// `factors` are those of both sides before the first half step, which solves the first side: what its rows start from, and
/// the other side's, whose Gram matrix is `gram`.
pub fn half_steps(
    pool: &ThreadPool,
    sides: [Side<'_>; 2],
    factors: [Vec<f32>; 2],
    gram: &[f64],
    (most, enough): (usize, Option<Enough>),
    go_on: impl Fn() -> bool,
) -> Result<Done, AlsError> {
    let [mut own, mut others] = factors;
    let (mut measures, mut turned): (Vec<Measures>, _) = (Vec::new(), Vec::new());
    let mut loss_before = enough.and_then(|enough| enough.before).map(f64::from_bits);
    while measures.len() < most {
        let fixed_gram = measures.last().map_or(gram, |measures| &measures.gram);
        let fixed = Fixed::new(&others, fixed_gram);
        let side = sides[measures.len() % 2];
        let measured = side.half_step(pool, fixed, &mut turned, &mut own)?;
        std::mem::swap(&mut own, &mut others);
        let loss = measures.last().map(|other| measured.loss(other, side.step.feedback));
        measures.push(measured);
        if let (true, Some(loss)) = (measures.len().is_multiple_of(2), loss) {
            let before = loss_before.replace(loss);
            let least = enough.map(|enough| f64::from_bits(enough.least));
            let is_enough = least
                .zip(before)
                .is_some_and(|(least, before)| Enough::is_enough(least, before, loss));
            if is_enough || !go_on() {
                break;
            }
        }
    }
    let factors = if measures.len().is_multiple_of(2) { [own, others] } else { [others, own] };
    Ok(Done { factors, measures })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::als::{Feedback, Regularization, Solver, gram};
    use crate::csr::Duplicates;
    use crate::random::starting_factors;

    /// Half steps of both sides, block by block: the factors, and what each half step comes to.
    fn one_after_another(
        sides: [Side<'_>; 2],
        mut factors: [Vec<f32>; 2],
        gram: &[f64],
        count: usize,
    ) -> Done {
        let mut measures: Vec<Measures> = Vec::new();
        for at in 0..count {
            let Side { step, blocks } = sides[at % 2];
            let width = step.feedback.width(step.factors);
            let mut own = std::mem::take(&mut factors[at % 2]);
            let gram = measures.last().map_or(gram, |measures| &measures.gram);
            let mut rows = factors[1 - at % 2].clone();
            let axes = sides[at % 2].turns().then(|| Axes::new(gram, step.factors).unwrap());
            axes.iter().for_each(|axes| axes.turn(&mut rows));
            let fixed = Fixed { rows: &rows, gram, axes: axes.as_ref() };
            let (mut total, mut rest) = (Measures::new(step.factors), own.as_mut_slice());
            for block in blocks {
                let part = rest.split_off_mut(..block.rows() * width).unwrap();
                total.add(&step.run(fixed, block, part).unwrap());
            }
            factors[at % 2] = own;
            measures.push(total);
        }
        Done { factors, measures }
    }

    #[test]
    fn consecutive_half_steps_are_those_that_return_each_time() {
        // With more of them, exact ones are along the axes too.
        for factors in [20, 100] {
            compare_consecutive(factors);
        }
    }

    fn compare_consecutive(factors: usize) {
        let (users, items) = (90, 70);
        let entries: Vec<_> = (0..users as u32)
            .flat_map(|user| (0..user % 31).map(move |at| (user, (user * 7 + at * at * 3) % 70)))
            .map(|(user, item)| (user, item, (user + item) as f32 % 4.0 - 0.5))
            .collect();
        let blocks = |rows: usize, each: usize, by_item: bool| {
            let of_block = |first: usize| {
                let count = each.min(rows - first);
                let mut own: Vec<_> =
                    entries
                        .iter()
                        .map(|(user, item, weight)| {
                            if by_item { (*item, *user, *weight) } else { (*user, *item, *weight) }
                        })
                        .filter(|(row, ..)| (first..first + count).contains(&(*row as usize)))
                        .collect();
                own.sort_by_key(|(row, column, _)| (*row, *column));
                Arc::new(Csr::from_entries(first as u32, count, own.into_iter(), Duplicates::Add))
            };
            (0..rows).step_by(each).map(of_block).collect::<Vec<_>>()
        };
        // Not as many blocks of one side as of the other.
        let (user_blocks, item_blocks) = (blocks(users, 40, false), blocks(items, 9, true));
        let regularization = Regularization { strength: 0.3, exponent: 0.5, unobserved: 1.0 };
        let feedbacks =
            [Feedback::Implicit { alpha: 4.0 }, Feedback::Explicit { bias: true, mean: 0.5 }];
        let solvers = [Solver::Exact, Solver::ConjugateGradient { steps: 2 }];
        for (feedback, solver) in feedbacks.into_iter().flat_map(|f| solvers.map(|s| (f, s))) {
            let width = feedback.width(factors);
            let step = HalfStep { feedback, regularization, solver, factors };
            let sides = [
                Side { step, blocks: &user_blocks },
                // Sides may be solved differently.
                Side { step: HalfStep { solver: Solver::Exact, ..step }, blocks: &item_blocks },
            ];
            let start =
                [users, items].map(|rows| starting_factors(rows as u64, 0, rows, width, width));
            let gram = gram(&start[1], width, factors);
            for threads in 1..3 {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                for count in [1, 2, 6, 7] {
                    let expected = one_after_another(sides, start.clone(), &gram, count);
                    let done =
                        half_steps(&pool, sides, start.clone(), &gram, (count, None), || true)
                            .unwrap();
                    assert_eq!(done, expected, "{feedback:?} {solver:?} {count}");
                }
            }

            // It falls less each time, and by how much is known.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
            let all = one_after_another(sides, start.clone(), &gram, 16);
            let losses: Vec<_> = all
                .measures
                .chunks_exact(2)
                .map(|iteration| iteration[1].loss(&iteration[0], feedback))
                .collect();
            let falls = |at: usize| (losses[at - 1] - losses[at]) / losses[at - 1];
            let least = (falls(3) * falls(4)).sqrt();
            let enough = |before: Option<f64>, least: f64| {
                Some(Enough { before: before.map(f64::to_bits), least: least.to_bits() })
            };
            let steps = |enough: Option<Enough>| {
                let most = (16, enough);
                let done = half_steps(&pool, sides, start.clone(), &gram, most, || true).unwrap();
                assert_eq!(done.measures, all.measures[..done.measures.len()]);
                done.measures.len()
            };
            assert_eq!(steps(enough(None, least)), 10, "{losses:?}");
            // The first iteration counts, if it is known what was before it.
            assert_eq!(steps(enough(Some(losses[0]), least)), 2);
            assert_eq!(steps(enough(Some(10.0 * losses[0]), 0.89)), 4);
            assert_eq!(steps(None), 16);
            // Whoever doesn't want to wait has a whole iteration.
            let one = half_steps(&pool, sides, start.clone(), &gram, (16, None), || false).unwrap();
            assert_eq!(one, one_after_another(sides, start.clone(), &gram, 2));
        }
    }
}
