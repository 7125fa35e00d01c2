//! Several steps of PageRank on blocks that stay in memory, by a task that has all of them or by tasks that wait for each
//! other after each step.

use super::{AT_ONCE, PageRankGraph, PageRankStep};
use crate::superstep::barrier::{Arrived, Barrier, patience};
use crate::superstep::exec::{Measured, Task, measures_of_all, total};
use crate::superstep::layout::{Folder, read_numbers, shared_numbers_to_bytes};
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use nightshift_udfs::csr::Csr;
use nightshift_udfs::pagerank::{Blocks, Consecutive, Measures, Places, Weight, error_bound};
use rayon::ThreadPool;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// What is left with a state for the next steps on the same blocks.
const LEFT: &str = "steps";

/// Where steps have come to on some blocks.
struct Left {
    blocks: Vec<u32>,
    ranks: Consecutive,
}

/// Blocks in memory, with what their steps need besides.
struct Held<W> {
    numbers: Vec<u32>,
    incoming: Vec<Arc<Csr<W>>>,
    teleport: Vec<Arc<Vec<f64>>>,
    places: Arc<Places>,
    out_weights: Arc<Vec<f64>>,
    damping: f64,
}

impl<W: Weight> Held<W> {
    async fn read(
        graph: &PageRankGraph,
        damping: f64,
        task: Task<'_>,
        blocks: &[u32],
    ) -> Result<Self> {
        let (places, out_weights) = (graph.places(task).await?, graph.all_out_weights(task).await?);
        let from = &places;
        let read = |block: u32| async move {
            let task = Task { block, ..task };
            tokio::try_join!(graph.incoming_from::<W>(task, from), graph.teleport(task))
        };
        let read = futures::stream::iter(blocks.iter().copied()).map(read).buffered(AT_ONCE);
        let (incoming, teleport): (Vec<_>, Vec<_>) = read.try_collect().await?;
        Ok(Self { numbers: blocks.to_vec(), incoming, teleport, places, out_weights, damping })
    }

    /// What `work`, which is done in a pool, makes of the blocks.
    fn with<R>(&self, work: impl FnOnce(Blocks<'_, W>) -> R) -> R {
        let teleport: Vec<&[f64]> = self.teleport.iter().map(|part| part.as_slice()).collect();
        work(Blocks {
            numbers: &self.numbers,
            incoming: &self.incoming,
            teleport: &teleport,
            places: &self.places,
            out_weights: &self.out_weights,
            damping: self.damping,
        })
    }
}

/// What several steps have come to.
struct Done {
    ranks: Consecutive,
    brought: Brought,
    /// What was measured in each block, step after step.
    measured: Vec<Measured>,
    count: usize,
    /// Whether the other tasks did in time all of them but the last.
    in_time: bool,
}

impl PageRankStep {
    /// All steps if `blocks` are all that there are, or else as many as the tasks that have the others do in time.
    pub(super) async fn pull_several<W: Weight>(
        &self,
        task: Task<'_>,
        blocks: &[u32],
    ) -> Result<RecordBatch> {
        let started = Instant::now();
        let (cut, vectors) = (self.graph.cut, self.graph.vectors());
        let held = &Arc::new(Held::<W>::read(&self.graph, self.damping, task, blocks).await?);
        let left = task.resident.take_with_state::<Left>(&self.from, LEFT).await;
        let ranks = match left.filter(|left| left.blocks == blocks) {
            Some(left) => left.ranks,
            None => {
                let before = task.resident.state(task, &self.from, cut, vectors).await?;
                let held = Arc::clone(held);
                let begin = move |all: Blocks<'_, W>| Consecutive::new(all, &before);
                let begin = move |pool: &ThreadPool| pool.install(|| held.with(begin));
                task.threads.run(begin).await?
            }
        };
        let alone = blocks.len() == cut.blocks() as usize;
        // The receiver is gone when nobody waits for the task any more.
        let (wanted, _waiting) = oneshot::channel::<()>();
        let steps = {
            let (step, held) = (self.clone(), Arc::clone(held));
            let others = if alone { None } else { Some(self.others(task)?) };
            let steps =
                move |blocks: Blocks<'_, W>| step.steps(blocks, ranks, others, (started, &wanted));
            move |pool: &ThreadPool| pool.install(|| held.with(steps))
        };
        let Done { ranks, brought, measured, count, in_time } = task.threads.run(steps).await??;
        if let Some(at) = count.checked_sub(1) {
            let ranks = match alone {
                true => {
                    let (folder, written) = (&self.to[at], Arc::clone(ranks.ranks()));
                    task.resident.write_state(task, folder, (cut, vectors), written).await?;
                    Some(ranks)
                }
                false => self.write(task, held, (ranks, brought), (at, in_time)).await?,
            };
            if let Some(ranks) = ranks {
                let (bytes, left) = (ranks.size(), Left { blocks: blocks.to_vec(), ranks });
                task.resident.leave_with_state(&self.to[at], LEFT, left, bytes).await;
            }
        }
        measures_of_all(task, &measured, started)
    }

    /// The steps, by the threads of the pool that it is called in, as long as they are `wanted`. Between them, the thread that
    /// it is called on meets the `others`: threads that wake each other would have to wait for those that compute.
    fn steps<W: Weight>(
        &self,
        blocks: Blocks<'_, W>,
        ranks: Consecutive,
        others: Option<Others>,
        (started, wanted): (Instant, &oneshot::Sender<()>),
    ) -> Result<Done> {
        let vectors = self.graph.vectors();
        let nothing = |block: &u32| Measured { block: *block, measures: Vec::new() };
        let measured = blocks.numbers.iter().map(nothing).collect();
        let mut done =
            Done { ranks, brought: Brought::default(), measured, count: 0, in_time: true };
        let mut dangling_mass = self.dangling_mass();
        // Others read what the first needs as well.
        let mut began = started;
        for to in &self.to {
            let measures = done.ranks.step(blocks, &dangling_mass);
            done.count += 1;
            let measured = |(block, measures): (&u32, Measures)| Measured {
                block: *block,
                measures: measures.to_vec(),
            };
            let own: Vec<_> = blocks.numbers.iter().zip(measures).map(measured).collect();
            for (all, step) in done.measured.iter_mut().zip(&own) {
                all.measures.extend_from_slice(&step.measures);
            }
            if others.is_some() {
                done.brought.pack(blocks, &done.ranks);
            }
            if done.count == self.to.len() || wanted.is_closed() {
                break;
            }
            let arrived = match &others {
                None => Vec::new(),
                Some(others) => match others.meet(done.count, &own, &done.brought, began)? {
                    Some(arrived) => arrived,
                    None => {
                        done.in_time = false;
                        break;
                    }
                },
            };
            let all = own.iter().chain(arrived.iter().map(|other| &other.measured));
            let mut of_blocks = vec![Vec::new(); self.graph.cut.blocks() as usize];
            all.for_each(|one| of_blocks[one.block as usize].clone_from(&one.measures));
            let totals = total(&of_blocks);
            let (changes, mass) = totals.split_at(vectors);
            if changes.iter().all(|change| error_bound(*change, self.damping) <= self.tolerance) {
                break;
            }
            dangling_mass = mass.to_vec();
            began = Instant::now();
            receive(blocks, &mut done.ranks, arrived, to)?;
        }
        Ok(done)
    }

    /// How a task meets the others after each step.
    fn others(&self, task: Task<'_>) -> Result<Others> {
        let measures = 2 * self.graph.vectors();
        let barrier = Barrier::new(task, (&self.from, "exchange"), self.graph.cut, measures)?;
        Ok(Others { barrier, runtime: Handle::current() })
    }

    /// Writes the blocks' parts of the state after a step, and of the one before if other tasks may not have come further.
    /// These did in time until then if this one was `in_time`. Returns with what all nodes pass along after the step, if all
    /// tasks have done it.
    async fn write<W: Weight>(
        &self,
        task: Task<'_>,
        held: &Arc<Held<W>>,
        (mut ranks, brought): (Consecutive, Brought),
        (at, in_time): (usize, bool),
    ) -> Result<Option<Consecutive>> {
        let (began, last, blocks) = (Instant::now(), &self.to[at], &held.numbers);
        self.write_parts(task, last, blocks, ranks.ranks()).await?;
        if in_time {
            let barrier = Barrier::new(task, (last, "written"), self.graph.cut, 0)?;
            let nothing = |block: &u32| Measured { block: *block, measures: Vec::new() };
            let nothing: Vec<_> = blocks.iter().map(nothing).collect();
            barrier.arrive(&nothing, brought.bytes()).await?;
            if let Some(others) = barrier.wait(blocks, patience(began.elapsed())).await? {
                let (held, last) = (Arc::clone(held), last.clone());
                let receive = move |pool: &ThreadPool| {
                    let receive =
                        |blocks: Blocks<'_, W>| receive(blocks, &mut ranks, others, &last);
                    pool.install(|| held.with(receive))?;
                    Ok(Some(ranks))
                };
                return task.threads.run(receive).await?;
            }
        }
        if let Some(before) = at.checked_sub(1) {
            self.write_parts(task, &self.to[before], blocks, ranks.before()).await?;
        }
        Ok(None)
    }

    /// Writes the parts of some blocks, whose ranks are one after another.
    async fn write_parts(
        &self,
        task: Task<'_>,
        to: &Folder,
        blocks: &[u32],
        ranks: &Arc<Vec<f64>>,
    ) -> Result<()> {
        let (cut, row_bytes) = (self.graph.cut, self.graph.vectors() * size_of::<f64>());
        let mut rest = shared_numbers_to_bytes(Arc::clone(ranks));
        let parts = blocks.iter().map(|block| {
            let part = rest.split_to(cut.rows(*block) * row_bytes);
            let task = Task { block: *block, ..task };
            task.resident.write_bytes(task, to, cut, part)
        });
        let parts: Vec<_> = parts.collect();
        futures::stream::iter(parts).buffer_unordered(AT_ONCE).try_collect().await
    }
}

/// What the nodes of a task's blocks pass along, for the other tasks: in one piece, block after block. The system takes three
/// times as long to write a thousand small ones.
#[derive(Default)]
struct Brought {
    numbers: Arc<Vec<f64>>,
    /// How many bytes of them are those of each block.
    lengths: Vec<usize>,
}

impl Brought {
    /// Packs it after a step, by the threads of the pool that it is called in.
    fn pack<W: Weight>(&mut self, blocks: Blocks<'_, W>, ranks: &Consecutive) {
        if Arc::get_mut(&mut self.numbers).is_none() {
            // Somebody still has what was there.
            self.numbers = Arc::default();
        }
        if let Some(numbers) = Arc::get_mut(&mut self.numbers) {
            let lengths = ranks.pack(blocks, numbers).into_iter();
            self.lengths = lengths.map(|length| length * size_of::<f64>()).collect();
        }
    }

    fn bytes(&self) -> (&[usize], Bytes) {
        (&self.lengths, shared_numbers_to_bytes(Arc::clone(&self.numbers)))
    }
}

/// The tasks that have the other blocks.
struct Others {
    /// Where all meet, after each step.
    barrier: Barrier,
    runtime: Handle,
}

impl Others {
    /// Tells them, after so many steps, what was `measured` in the task's blocks and what these bring, and returns what they
    /// do if they come in time, after a step that `began` then. On a thread that is not the runtime's.
    fn meet(
        &self,
        steps: usize,
        measured: &[Measured],
        brought: &Brought,
        began: Instant,
    ) -> Result<Option<Vec<Arrived>>> {
        let own: Vec<u32> = measured.iter().map(|one| one.block).collect();
        let barrier = self.barrier.after(steps);
        // All have arrived after the step before, and then they had received what was brought before that.
        let forget = async {
            match steps.checked_sub(2) {
                Some(received) => self.barrier.after(received).forget(&own).await,
                None => Ok(()),
            }
        };
        let meet = async {
            barrier.arrive(measured, brought.bytes()).await?;
            let wait = barrier.wait(&own, patience(began.elapsed()));
            let ((), arrived) = futures::try_join!(forget, wait)?;
            Ok(arrived)
        };
        barrier.on_this_thread(&self.runtime, meet)
    }
}

/// Receives what the nodes of other tasks' blocks pass along after a step, by the threads of the pool that it is called in.
fn receive<W: Weight>(
    blocks: Blocks<'_, W>,
    ranks: &mut Consecutive,
    others: Vec<Arrived>,
    state: &Folder,
) -> Result<()> {
    let brought = |other: Arrived| (other.measured.block, other.brought);
    let others = others.into_iter().map(brought).collect();
    let read = |mut passed: Bytes, pieces: Vec<&mut [f64]>| {
        let length: usize = pieces.iter().map(|piece| size_of_val(*piece)).sum();
        if passed.len() != length {
            let reason = format!("nodes pass {} bytes along instead of {length}", passed.len());
            return Err(JobError::Damaged { what: state.0.to_string(), reason });
        }
        let read = |piece: &mut [f64]| {
            read_numbers(&passed.split_to(size_of_val(piece)), state.0.as_str(), piece)
        };
        pieces.into_iter().try_for_each(read)
    };
    ranks.receive(blocks, others, read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superstep::exec::Kernel;
    use crate::superstep::layout::{Partitioned, numbers_to_bytes};
    use crate::superstep::resident::Resident;
    use crate::superstep::testing::Executor;
    use arrow::array::AsArray;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use nightshift_udfs::csr::Duplicates;
    use url::Url;

    const CUT: Partitioned = Partitioned { count: 9, block_rows: 4 };
    const EDGES: [(u32, u32); 12] = [
        (0, 1),
        (0, 5),
        (1, 5),
        (2, 8),
        (3, 0),
        (4, 0),
        (4, 4),
        (5, 6),
        (5, 2),
        (6, 7),
        (7, 0),
        (7, 5),
    ];
    const STEPS: usize = 5;

    fn executor() -> Executor {
        Executor::new(Resident::default(), 1)
    }

    /// How many steps an executor does on some blocks.
    async fn run(executor: &Executor, step: &PageRankStep, blocks: &[u32]) -> usize {
        let batch = step.run_together(executor.task(0), blocks).await.unwrap().unwrap();
        let measures = batch.column(1).as_list::<i32>();
        let steps = |row: usize| measures.value(row).len() / 2;
        assert!((0..blocks.len()).all(|row| steps(row) == steps(0)));
        steps(0)
    }

    async fn ranks(executor: &Executor, state: &Folder) -> Vec<f64> {
        executor.resident.state::<f64>(executor.task(0), state, CUT, 1).await.unwrap().to_vec()
    }

    /// Writes the graph and its starting ranks, and returns the steps that may be done then.
    async fn steps_in(dir: &tempfile::TempDir) -> PageRankStep {
        let root = Url::from_directory_path(dir.path()).unwrap();
        let folder = |name: &str| Folder(root.join(&format!("{name}/")).unwrap());
        let runtime = RuntimeEnv::default();
        let state = |number: usize| folder(&format!("state/{number:05}"));
        for block in 0..CUT.blocks() {
            let (range, name) = (CUT.range(block), Folder::part(block));
            let here = |node: u32| range.contains(&u64::from(node));
            let entries = EDGES.iter().filter(|(_, target)| here(*target));
            let entries = entries.map(|(source, target)| (*target, *source, ()));
            let mut entries: Vec<_> = entries.collect();
            entries.sort();
            let (first, rows) = (range.start as u32, CUT.rows(block));
            let incoming = Csr::from_entries(first, rows, entries.into_iter(), Duplicates::Keep);
            let degree =
                |node| EDGES.iter().filter(|edge| u64::from(edge.0) == node).count() as f64;
            let degrees = range.clone().map(degree).collect();
            let ranks = vec![1.0 / 9.0; rows];
            for (folder, bytes) in [
                (folder("incoming"), Bytes::from(incoming.to_bytes())),
                (folder("out-weights"), numbers_to_bytes::<f64>(degrees)),
                (state(0), numbers_to_bytes(ranks)),
            ] {
                folder.open(&runtime).unwrap().put(&name, bytes).await.unwrap();
            }
        }
        PageRankStep {
            graph: PageRankGraph {
                cut: CUT,
                edges: EDGES.len() as u64,
                incoming: folder("incoming"),
                weighted: false,
                out_weights: folder("out-weights"),
                teleport: None,
            },
            damping: 0.85,
            // Node 8 has no outgoing edges.
            dangling_mass: vec![(1.0f64 / 9.0).to_bits()],
            from: state(0),
            to: (1..=STEPS).map(state).collect(),
            tolerance: 1e-15,
        }
    }

    /// The ranks after each number of steps, by one task.
    async fn expected() -> Vec<Vec<f64>> {
        let mut expected = Vec::new();
        for steps in 1..=STEPS {
            let dir = tempfile::tempdir().unwrap();
            let mut step = steps_in(&dir).await;
            step.to.truncate(steps);
            let executor = executor();
            assert_eq!(run(&executor, &step, &[0, 1, 2]).await, steps);
            expected.push(ranks(&executor, &step.to[steps - 1]).await);
        }
        assert!((expected[STEPS - 1].iter().sum::<f64>() - 1.0).abs() < 1e-12);
        expected
    }

    #[tokio::test]
    async fn tasks_come_to_what_one_comes_to() {
        let (dir, expected) = (tempfile::tempdir().unwrap(), expected().await);
        let step = steps_in(&dir).await;
        let (first, second) = (executor(), executor());
        let (one, other) = tokio::join!(run(&first, &step, &[0, 2]), run(&second, &step, &[1]));
        // How long they wait for each other is a matter of time, and that they differ by no more than a step is not.
        let all = one.min(other);
        assert!(all >= 1 && one.max(other) <= all + 1, "{one} {other}");
        let state = &step.to[all - 1];
        assert!(state.has_all_parts(&first.runtime, CUT).await.unwrap());
        assert_eq!(ranks(&executor(), state).await, expected[all - 1]);
    }

    /// The steps after some, which have come to these ranks.
    fn after(step: &PageRankStep, steps: usize, ranks: &[f64]) -> PageRankStep {
        let (from, to) = (step.to[steps - 1].clone(), step.to[steps..].to_vec());
        PageRankStep { from, to, dangling_mass: vec![ranks[8].to_bits()], ..step.clone() }
    }

    #[tokio::test]
    async fn steps_go_on_from_what_is_left_in_memory() {
        let (dir, expected) = (tempfile::tempdir().unwrap(), expected().await);
        let step = steps_in(&dir).await;
        let first = PageRankStep { to: step.to[..2].to_vec(), ..step.clone() };
        let (executor, all) = (executor(), [0, 1, 2]);
        assert_eq!(run(&executor, &first, &all).await, 2);
        let store = step.to[1].open(&executor.runtime).unwrap();
        store.delete(&Folder::part(1)).await.unwrap();
        let rest = after(&step, 2, &expected[1]);
        assert_eq!(run(&executor, &rest, &all).await, STEPS - 2);
        assert_eq!(ranks(&executor, &step.to[STEPS - 1]).await, expected[STEPS - 1]);
        // It was taken: now the state is wanted.
        assert!(rest.run_together(executor.task(0), &all).await.is_err());
    }

    #[tokio::test]
    async fn what_was_exchanged_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut step = steps_in(&dir).await;
        let state = |number: usize| {
            let root = Url::from_directory_path(dir.path()).unwrap();
            Folder(root.join(&format!("state/{number:05}/")).unwrap())
        };
        step.to = (1..=40).map(state).collect();
        let (first, second) = (executor(), executor());
        tokio::join!(run(&first, &step, &[0, 2]), run(&second, &step, &[1]));
        let exchanged = step.from.open(&first.runtime).unwrap().folder("exchange");
        // What each has brought in the end isn't, nor what others may have received before.
        let left = exchanged.list().await.unwrap().len();
        assert!((1..=2 * 2).contains(&left), "{left}");
    }

    #[tokio::test]
    async fn no_step_is_done_that_nobody_wants() {
        let dir = tempfile::tempdir().unwrap();
        let step = steps_in(&dir).await;
        let (executor, all) = (executor(), [0, 1, 2]);
        let task = executor.task(0);
        let held = Held::<()>::read(&step.graph, step.damping, task, &all).await.unwrap();
        for (waiting, steps) in [(true, STEPS), (false, 1)] {
            let (wanted, receiver) = oneshot::channel();
            let _receiver = waiting.then_some(receiver);
            let done = held.with(|blocks| {
                let ranks = Consecutive::new(blocks, &[1.0 / 9.0; 9]);
                step.steps(blocks, ranks, None, (Instant::now(), &wanted)).unwrap()
            });
            assert_eq!(done.count, steps);
        }
    }

    #[tokio::test]
    async fn tasks_go_on_together_where_they_have_left_off() {
        let (dir, expected) = (tempfile::tempdir().unwrap(), expected().await);
        let step = steps_in(&dir).await;
        let (first, second) = (executor(), executor());
        let mut done = 0;
        while done < STEPS {
            let mut next = match done {
                0 => step.clone(),
                _ => after(&step, done, &expected[done - 1]),
            };
            next.to.truncate(2);
            let (one, other) = tokio::join!(run(&first, &next, &[0, 2]), run(&second, &next, &[1]));
            done += one.min(other);
            assert_eq!(ranks(&executor(), &step.to[done - 1]).await, expected[done - 1]);
        }
    }

    #[tokio::test]
    async fn who_is_alone_does_a_step_and_who_is_late_one_more() {
        let (dir, expected) = (tempfile::tempdir().unwrap(), expected().await);
        let step = steps_in(&dir).await;
        assert_eq!(run(&executor(), &step, &[1]).await, 1);
        let whole = async |steps: usize| {
            step.to[steps - 1].has_all_parts(&RuntimeEnv::default(), CUT).await.unwrap()
        };
        assert!(!whole(1).await);
        assert_eq!(run(&executor(), &step, &[0, 2]).await, 2);
        assert!(whole(1).await && !whole(2).await);
        assert_eq!(ranks(&executor(), &step.to[0]).await, expected[0]);
    }
}
