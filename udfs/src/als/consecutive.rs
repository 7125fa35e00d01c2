//! Half steps after each other, where all blocks of both sides are in the memory of one process.

use super::{AlsError, Fixed, HalfStep, KnownSums, Measures, Sums};
use crate::csr::Csr;
use rayon::ThreadPool;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
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
    /// A half step, by the threads of a pool that the caller is not in. The same as one block by block, whose measures are
    /// added up in the order of the blocks.
    fn half_step(
        &self,
        pool: &ThreadPool,
        fixed: Fixed<'_>,
        factors: &mut [f32],
    ) -> Result<Measures, AlsError> {
        let (step, known) = (self.step, KnownSums::new());
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
    let mut measures: Vec<Measures> = Vec::new();
    let mut loss_before = enough.and_then(|enough| enough.before).map(f64::from_bits);
    while measures.len() < most {
        let fixed_gram = measures.last().map_or(gram, |measures| &measures.gram);
        let fixed = Fixed { rows: &others, gram: fixed_gram };
        let side = sides[measures.len() % 2];
        let measured = side.half_step(pool, fixed, &mut own)?;
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
