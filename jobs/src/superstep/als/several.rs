//! Several half steps of ALS, by a task that has all blocks of both sides in memory, or by tasks that wait for each other after
//! each of them.

use super::{AlsSide, AlsStep};
use crate::superstep::barrier::{Barrier, patience};
use crate::superstep::exec::{Measured, Task, measures_of_all, total};
use crate::superstep::layout::Folder;
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use nightshift_udfs::als::{Fixed, Measures, Side};
use nightshift_udfs::csr::Csr;
use rayon::ThreadPool;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Blocks that are read at the same time.
const AT_ONCE: usize = 16;

/// The name of the room for rows along their axes.
const TURNED: &str = "rows along their axes";

/// The answer of a block of which no more is known than what was measured in it.
pub(super) fn of_one_block(Measured { block, measures }: Measured) -> Measured {
    Measured { block, measures: std::iter::once(0.0).chain(measures).collect() }
}

/// What was measured in a block, but for the seconds at its end.
fn without_seconds(Measured { mut measures, .. }: Measured) -> Vec<f64> {
    measures.pop();
    measures
}

/// The answers of a task's blocks, which knows what half steps come to on all blocks.
fn of_all_blocks(blocks: impl Iterator<Item = u32>, known: &[Measures]) -> Vec<Measured> {
    let mut totals: Vec<f64> = known.iter().flat_map(Measures::to_vec).collect();
    let answer = |block| {
        let measures = std::iter::once(known.len() as f64).chain(totals.drain(..)).collect();
        Measured { block, measures }
    };
    blocks.map(answer).collect()
}

/// How long a task takes for half steps.
struct Clock {
    /// When the one that it does now began, with reading what it needs.
    began: Instant,
    /// How long the longest took: a task may have next to nothing of one side, and others much.
    longest: Duration,
}

impl Clock {
    fn new(began: Instant) -> Self {
        Self { began, longest: Duration::ZERO }
    }

    /// How long to wait for others, now that the task has done its part of a half step.
    fn patience(&mut self) -> Duration {
        self.longest = self.longest.max(self.began.elapsed());
        patience(self.longest)
    }

    /// All have done theirs.
    fn restart(&mut self) {
        self.began = Instant::now();
    }
}

/// A side in memory.
struct Held {
    side: AlsSide,
    /// The task's blocks of it, in the order of their rows, and those of other tasks.
    own: Vec<u32>,
    others: Vec<u32>,
    blocks: Vec<Arc<Csr<f32>>>,
    /// The factors of all its rows.
    factors: Vec<f32>,
}

impl Held {
    async fn read(task: Task<'_>, side: &AlsSide, own: &[u32], factors: Vec<f32>) -> Result<Self> {
        let read = |block: u32| async move {
            let rows = Task { block, ..task }.csr::<f32>(&side.blocks).await?;
            let (first, count) = (side.cut.range(block).start, side.cut.rows(block));
            if u64::from(rows.first_row) != first || rows.rows() != count {
                return Err(JobError::Damaged {
                    what: format!("{}{}", side.blocks.0, Folder::part(block)),
                    reason: format!(
                        "it has {} rows from {} on instead of {count} from {first} on",
                        rows.rows(),
                        rows.first_row
                    ),
                });
            }
            Ok(rows)
        };
        let blocks = futures::stream::iter(own.iter().copied()).map(read).buffered(AT_ONCE);
        let blocks = blocks.try_collect().await?;
        let others = (0..side.cut.blocks()).filter(|block| own.binary_search(block).is_err());
        let (side, own, others) = (side.clone(), own.to_vec(), others.collect());
        Ok(Self { side, own, others, blocks, factors })
    }

    /// Solves the rows of the task's blocks, from the factors of the other side. What was measured in each, and the seconds
    /// since the task has `started`.
    fn solve(
        &mut self,
        pool: &ThreadPool,
        (fixed, gram): (&Held, &[f64]),
        turned: &mut Vec<f32>,
        started: Instant,
    ) -> Result<Vec<Measured>> {
        let side = Side { step: self.side.step, turns: self.side.turns(), blocks: &self.blocks };
        let fixed = Fixed::new(&fixed.factors, gram);
        let measures = side.half_step(pool, fixed, turned, &mut self.factors)?;
        let seconds = started.elapsed().as_secs_f64();
        let measured = |(block, measures): (&u32, Measures)| Measured {
            block: *block,
            measures: measures.to_vec().into_iter().chain([seconds]).collect(),
        };
        Ok(self.own.iter().zip(measures).map(measured).collect())
    }

    /// Leaves for other tasks what was `solved`, and receives what these have come to: what was measured there. `None` if they
    /// don't come in time, or if what they say to have written is not there any more: that was long ago.
    async fn exchange(
        &mut self,
        task: Task<'_>,
        to: &Folder,
        solved: &[Measured],
        clock: &mut Clock,
    ) -> Result<Option<Vec<Measured>>> {
        let (cut, width) = (self.side.cut, self.side.width());
        let factors = Arc::new(std::mem::take(&mut self.factors));
        let own = self.own.iter().copied();
        task.resident.write_parts(task, to, (cut, width), own, &factors).await?;
        let measures = Measures::len_of(self.side.step.factors) + 1;
        let barrier = Barrier::new(task, (to, "solved"), cut, measures)?;
        barrier.arrive(solved, (&[], Bytes::new())).await?;
        let arrived = barrier.wait(&self.own, clock.patience()).await?;
        let Some(arrived) = arrived else { return Ok(None) };
        clock.restart();
        let (factors, others) = (Arc::unwrap_or_clone(factors), self.others.clone());
        let receive = task.resident.read_parts(task, to, (cut, width), others, factors, |_| ());
        match receive.await {
            Ok(factors) => self.factors = factors,
            Err(JobError::Catalog(error)) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(arrived.into_iter().map(|other| other.measured).collect()))
    }

    /// Keeps its factors as a state, which nobody else has written if the task is `alone`.
    async fn keep(self, task: Task<'_>, state: &Folder, alone: bool) -> Result<()> {
        let (cut, factors) = ((self.side.cut, self.side.width()), Arc::new(self.factors));
        match alone {
            true => task.resident.write_state(task, state, cut, factors).await?,
            false => task.resident.keep_state(state, factors).await,
        }
        Ok(())
    }
}

impl AlsStep {
    /// What half steps come to that are done on all blocks, by the answers of all of them; nothing if they are not answers.
    /// Who knows of one has seen all parts of it: what the others know doesn't matter.
    pub fn totals(&self, answers: &[Vec<f64>]) -> Vec<Measures> {
        let known = |answer: &&Vec<f64>| answer.first().map_or(0, |steps| *steps as usize);
        let length = Measures::len_of(self.side.step.factors);
        let most = answers.iter().map(|answer| known(&answer)).max().unwrap_or(0);
        let totals = |answer: &Vec<f64>| Some(answer.get(1..1 + most * length)?.to_vec());
        let knowing = answers.iter().filter(|answer| most > 0 && known(answer) == most);
        let knowing = knowing.filter_map(totals).next();
        let of_blocks = || {
            let own = answers.iter().map(|answer| answer.get(1..).unwrap_or_default().to_vec());
            total(&own.collect::<Vec<_>>())
        };
        let totals = knowing.unwrap_or_else(of_blocks);
        totals.chunks_exact(length).filter_map(Measures::from_slice).collect()
    }

    /// Half steps on some `blocks` of both sides: all that may be done if these are all that there are, or else as many as
    /// the tasks that have the others do in time.
    pub(super) async fn solve_several(
        &self,
        task: Task<'_>,
        blocks: [&[u32]; 2],
    ) -> Result<RecordBatch> {
        let (started, width) = (Instant::now(), self.side.width());
        let alone = blocks[0].len() == self.side.cut.blocks() as usize;
        let start = match &self.earlier {
            Some(earlier) => {
                let cut = self.side.cut;
                task.resident.take_state(task, earlier, cut, width).await?
            }
            None => vec![0.0; self.side.cut.count as usize * width],
        };
        let cut = self.other.cut;
        let fixed = task.resident.take_state(task, &self.fixed, cut, width).await?;
        let mut sides = [
            Held::read(task, &self.side, blocks[0], start).await?,
            Held::read(task, &self.other, blocks[1], fixed).await?,
        ];
        let (mut gram, mut enough) = (self.gram(task).await?, self.enough);
        let mut turned: Vec<f32> = task.resident.take(TURNED).await.unwrap_or_default();
        let mut known: Vec<Measures> = Vec::new();
        // What was measured in the task's blocks in a half step that others didn't do in time.
        let mut in_vain = None;
        let mut clock = Clock::new(started);
        for to in &self.to {
            let solve = {
                let gram = Arc::clone(&gram);
                move |pool: &ThreadPool| {
                    let [side, other] = &mut sides;
                    let solved = side.solve(pool, (other, &gram), &mut turned, started);
                    solved.map(|solved| (sides, turned, solved))
                }
            };
            let mut solved;
            (sides, turned, solved) = task.threads.run(solve).await??;
            if !alone {
                let Some(others) = sides[0].exchange(task, to, &solved, &mut clock).await? else {
                    in_vain = Some(solved);
                    break;
                };
                solved.extend(others);
            }
            solved.sort_unstable_by_key(|one| one.block);
            // All tasks have the same number of this, so that all of them stop then or none.
            let seconds = solved.first().and_then(|one| one.measures.last()).copied();
            let of_blocks: Vec<_> = solved.into_iter().map(without_seconds).collect();
            let measures = Measures::from_slice(&total(&of_blocks));
            let measures = measures.ok_or_else(|| JobError::Damaged {
                what: to.0.to_string(),
                reason: "nothing was measured".to_string(),
            })?;
            gram = Arc::new(measures.gram.clone());
            let feedback = self.side.step.feedback;
            let loss = known.last().map(|other| measures.loss(other, feedback));
            known.push(measures);
            sides.swap(0, 1);
            let iteration = loss.filter(|_| known.len().is_multiple_of(2));
            let mut reached = |loss| enough.as_mut().is_some_and(|enough| enough.is_reached(loss));
            let in_time = || seconds.is_some_and(|seconds| seconds < self.seconds);
            if iteration.is_some_and(|loss| reached(loss) || !in_time()) {
                break;
            }
        }
        let bytes = turned.capacity() * size_of::<f32>();
        task.resident.leave(TURNED.to_string(), turned, bytes).await;
        // The side that was solved last is the second one now. The first is nothing whole after a half step in vain.
        let whole = sides.into_iter().rev().take(if in_vain.is_some() { 1 } else { 2 });
        for (side, state) in whole.zip(self.to[..known.len()].iter().rev()) {
            side.keep(task, state, alone).await?;
        }
        let answers = match (known.is_empty(), in_vain) {
            (true, Some(own)) => own
                .into_iter()
                .map(|one| {
                    of_one_block(Measured { block: one.block, measures: without_seconds(one) })
                })
                .collect(),
            _ => of_all_blocks(blocks[0].iter().copied(), &known),
        };
        measures_of_all(task, &answers, started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superstep::exec::Kernel;
    use crate::superstep::layout::{Partitioned, numbers_to_bytes};
    use crate::superstep::resident::Resident;
    use crate::superstep::testing::Executor;
    use arrow::array::AsArray;
    use arrow::datatypes::{Float64Type, UInt32Type};
    use datafusion::execution::runtime_env::RuntimeEnv;
    use nightshift_udfs::als::{Enough, Feedback, HalfStep, Regularization, Solver, gram};
    use nightshift_udfs::csr::Duplicates;
    use nightshift_udfs::random::starting_factors;
    use url::Url;

    const USERS: Partitioned = Partitioned { count: 21, block_rows: 8 };
    const ITEMS: Partitioned = Partitioned { count: 13, block_rows: 3 };
    const FACTORS: usize = 4;
    const STEPS: usize = 6;

    fn executor() -> Executor {
        Executor::new(Resident::new(1 << 30), 1)
    }

    /// Writes both sides and starting factors of items, and returns the half steps that may be done then.
    async fn step_in(dir: &tempfile::TempDir) -> AlsStep {
        let root = Url::from_directory_path(dir.path()).unwrap();
        let folder = |name: &str| Folder(root.join(&format!("{name}/")).unwrap());
        let runtime = RuntimeEnv::default();
        let pairs: Vec<_> = (0..21)
            .flat_map(|user| (user % 5..13).step_by(2).map(move |item| (user, item)))
            .collect();
        let mut sides = Vec::new();
        for (name, cut, by_item) in [("users", USERS, false), ("items", ITEMS, true)] {
            let (blocks, store) = (folder(name), folder(name).open(&runtime).unwrap());
            for block in 0..cut.blocks() {
                let range = cut.range(block);
                let entry = |(user, item): &(u32, u32)| {
                    let (row, column) = if by_item { (*item, *user) } else { (*user, *item) };
                    let weight = (user * 7 + item * 3) % 5 + 1;
                    range.contains(&u64::from(row)).then_some((row, column, weight as f32))
                };
                let mut entries: Vec<_> = pairs.iter().filter_map(entry).collect();
                entries.sort_by_key(|(row, column, _)| (*row, *column));
                let (first, rows) = (range.start as u32, cut.rows(block));
                let block_of = Csr::from_entries(first, rows, entries.into_iter(), Duplicates::Add);
                store.put(&Folder::part(block), block_of.to_bytes()).await.unwrap();
            }
            let solver = Solver::ConjugateGradient { steps: 1 };
            let regularization = Regularization { strength: 0.5, exponent: 0.0, unobserved: 0.0 };
            let feedback = Feedback::Implicit { alpha: 2.0 };
            let step = HalfStep { feedback, regularization, solver, factors: FACTORS };
            let entries = pairs.len() as u64;
            sides.push(AlsSide { step, cut, blocks, entries, slices: Vec::new() });
        }
        let fixed = folder("state/items-00000");
        let start = starting_factors(7, 0, ITEMS.count as usize, FACTORS, FACTORS);
        AlsStep::complete_state(&fixed, &runtime, &gram(&start, FACTORS, FACTORS)).await.unwrap();
        let store = fixed.open(&runtime).unwrap();
        for block in 0..ITEMS.blocks() {
            let range = ITEMS.range(block);
            let part = start[range.start as usize * FACTORS..range.end as usize * FACTORS].to_vec();
            store.put(&Folder::part(block), numbers_to_bytes(part)).await.unwrap();
        }
        let state = |step: usize| {
            let name = if step.is_multiple_of(2) { "users" } else { "items" };
            folder(&format!("state/{name}-{:05}", step / 2 + 1))
        };
        let [side, other] = sides.try_into().unwrap();
        let (to, enough) = ((0..STEPS).map(state).collect(), None);
        AlsStep { side, other, earlier: None, fixed, to, enough, seconds: 60.0 }
    }

    /// What a task with some blocks of users and of items answers for those of users.
    async fn run(
        executor: &Executor,
        step: &AlsStep,
        users: &[u32],
        items: &[u32],
    ) -> Vec<(u32, Vec<f64>)> {
        let beside = items.iter().map(|block| step.blocks() + block);
        let blocks: Vec<u32> = users.iter().copied().chain(beside).collect();
        let batch = step.run_together(executor.task(0), &blocks).await.unwrap().unwrap();
        let numbers = batch.column(0).as_primitive::<UInt32Type>().values().to_vec();
        let lists = batch.column(1).as_list::<i32>();
        let list = |row| lists.value(row).as_primitive::<Float64Type>().values().to_vec();
        numbers.into_iter().enumerate().map(|(row, block)| (block, list(row))).collect()
    }

    /// What the answers of all tasks come to.
    fn totals(step: &AlsStep, mut answers: Vec<(u32, Vec<f64>)>) -> Vec<Measures> {
        answers.sort_by_key(|(block, _)| *block);
        assert!(answers.iter().map(|(block, _)| *block).eq(0..step.blocks()));
        step.totals(&answers.into_iter().map(|(_, answer)| answer).collect::<Vec<_>>())
    }

    async fn factors(step: &AlsStep, at: usize) -> Vec<f32> {
        let executor = executor();
        let cut = [USERS, ITEMS][at % 2];
        let state = executor.resident.state(executor.task(0), &step.to[at], cut, FACTORS);
        state.await.unwrap().to_vec()
    }

    /// The last factors, and what each half step comes to, of one task that has all blocks.
    async fn expected(steps: usize) -> (Vec<f32>, Vec<Measures>) {
        let dir = tempfile::tempdir().unwrap();
        let mut step = step_in(&dir).await;
        step.to.truncate(steps.max(2));
        let answers = run(&executor(), &step, &[0, 1, 2], &[0, 1, 2, 3, 4]).await;
        let mut measures = totals(&step, answers);
        assert_eq!(measures.len(), steps.max(2));
        measures.truncate(steps);
        (factors(&step, steps - 1).await, measures)
    }

    #[tokio::test]
    async fn tasks_come_to_what_one_comes_to() {
        let dir = tempfile::tempdir().unwrap();
        let step = step_in(&dir).await;
        let (first, second) = (executor(), executor());
        let (one, other) = tokio::join!(
            run(&first, &step, &[0, 2], &[1, 3]),
            run(&second, &step, &[1], &[0, 2, 4])
        );
        let done = totals(&step, [one, other].concat());
        // How long they wait for each other is a matter of time.
        for steps in 1..=done.len() {
            let (expected, measures) = expected(steps).await;
            assert_eq!(factors(&step, steps - 1).await, expected, "{steps}");
            assert_eq!(done[..steps], measures);
        }
    }

    #[tokio::test]
    async fn who_is_late_goes_as_far_as_the_others_have_come() {
        let dir = tempfile::tempdir().unwrap();
        let step = step_in(&dir).await;
        let (expected, measures) = expected(1).await;
        let alone = run(&executor(), &step, &[1], &[0, 1, 2]).await;
        assert_eq!(alone[0].1[0], 0.0);
        // The other finds what the first has left, waits for its next half step, and returns what it knows.
        let late = run(&executor(), &step, &[0, 2], &[3, 4]).await;
        assert_eq!([late[0].1[0], late[1].1[0]], [1.0, 1.0]);
        assert_eq!(totals(&step, [alone, late].concat()), measures);
        assert_eq!(factors(&step, 0).await, expected);
        // Run again, the first finds that as well, and goes on to where the other is.
        let again = run(&executor(), &step, &[1], &[0, 1, 2]).await;
        assert_eq!(again[0].1[0], 2.0);
    }

    #[tokio::test]
    async fn blocks_that_were_worked_on_one_by_one_come_to_one_half_step() {
        let dir = tempfile::tempdir().unwrap();
        let step = step_in(&dir).await;
        let executor = executor();
        let mut answers = Vec::new();
        for block in 0..step.blocks() {
            let batch = step.run(executor.task(block)).await.unwrap();
            let list = batch.column(1).as_list::<i32>().value(0);
            answers.push((block, list.as_primitive::<Float64Type>().values().to_vec()));
        }
        let (expected, measures) = expected(1).await;
        assert_eq!(totals(&step, answers), measures);
        assert_eq!(factors(&step, 0).await, expected);
        assert_eq!(step.totals(&[vec![], vec![3.0, 1.0]]), []);
    }

    /// As when a training goes on whose states were being deleted when it was interrupted.
    #[tokio::test]
    async fn a_part_that_is_gone_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let step = step_in(&dir).await;
        let alone = run(&executor(), &step, &[1], &[0, 1, 2]).await;
        let store = step.to[0].open(&RuntimeEnv::default()).unwrap();
        store.delete(&Folder::part(1)).await.unwrap();
        let other = run(&executor(), &step, &[0, 2], &[3, 4]).await;
        assert_eq!([other[0].1[0], other[1].1[0]], [0.0, 0.0]);
        let (_, measures) = expected(1).await;
        assert_eq!(totals(&step, [alone, other].concat()), measures);
    }

    #[tokio::test]
    async fn tasks_stop_after_the_iteration_that_is_enough_or_the_last_in_time() {
        // Any loss is less than that, and none falls by all of it.
        let enough = Enough { before: None, least: 1.0f64.to_bits() };
        for (enough, seconds, most) in [(Some(enough), 60.0, 4.0), (None, 0.0, 2.0)] {
            let dir = tempfile::tempdir().unwrap();
            let step = AlsStep { enough, seconds, ..step_in(&dir).await };
            let (first, second) = (executor(), executor());
            let one = run(&first, &step, &[0, 2], &[1, 3]);
            let (one, other) = tokio::join!(one, run(&second, &step, &[1], &[0, 2, 4]));
            let known = [&one[0].1, &other[0].1].map(|answer| answer[0]);
            assert!(known.iter().all(|steps| *steps <= most), "{known:?}");
        }
    }
}
