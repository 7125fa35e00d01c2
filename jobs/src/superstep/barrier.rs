//! Barriers between the steps of tasks that go on together, so that none of them has to return to the driver after each step.
//!
//! When a task has done a step, it arrives: it leaves in a folder of a state what its blocks have come to, in one object. Who
//! finds there what all blocks have come to can go on. Nothing makes sure that all tasks of a job run at the same time, so
//! nobody waits for longer than the others should take. Then some may have gone on, by one step at most: nobody arrives for the
//! next who didn't see all of the others.

use super::exec::{Measured, Task};
use super::layout::{Folder, Partitioned, append_numbers, numbers_to_bytes};
use crate::{JobError, Result};
use bytes::Bytes;
use nightshift_catalog::storage::Storage;
use nightshift_udfs::csr::Value;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How long a task waits for the others after what took it so long: they may have more to do, though not much more.
pub fn patience(took: Duration) -> Duration {
    2 * took + Duration::from_millis(100)
}

/// Those who have as much to do arrive at about the same time. For so long, a task looks again at once who is there: a pause of
/// a millisecond can take two.
const EAGER: Duration = Duration::from_millis(2);

/// Later, it pauses for a share of the time that it took until then, within these bounds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
const PAUSES: u32 = 8;

/// A barrier of all tasks that have blocks of a state.
#[derive(Debug, Clone)]
pub struct Barrier {
    /// Where they arrive.
    folder: Storage,
    /// What the names of what they leave there begin with.
    prefix: String,
    /// How the state is cut.
    cut: Partitioned,
    /// How many numbers are measured of each block.
    measures: usize,
}

/// What another task's block has come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrived {
    /// What was measured, with its block.
    pub measured: Measured,
    /// What others need of it.
    pub brought: Bytes,
}

impl Barrier {
    /// The barrier of tasks that have done what `name`, which is a folder of the `state`, says.
    pub fn new(
        task: Task<'_>,
        (state, name): (&Folder, &str),
        cut: Partitioned,
        measures: usize,
    ) -> Result<Self> {
        let folder = state.open(task.runtime)?.folder(name);
        Ok(Self { folder, prefix: String::new(), cut, measures })
    }

    /// The barrier after so many steps, in the same folder: file systems take as long to make one as to write some megabytes.
    pub fn after(&self, steps: usize) -> Self {
        Self { prefix: format!("{steps:06}-"), ..self.clone() }
    }

    fn name(&self, first_block: u32) -> String {
        format!("{}{}", self.prefix, Folder::part(first_block))
    }

    /// Says what a task's blocks have come to, and brings what others need of each of them: so many bytes of `brought`, block
    /// after block. Blocks without a length bring nothing.
    pub async fn arrive(
        &self,
        blocks: &[Measured],
        (lengths, brought): (&[usize], Bytes),
    ) -> Result<()> {
        let Some(first) = blocks.first() else { return Ok(()) };
        let lengths = lengths.iter().copied().chain(std::iter::repeat(0));
        let head = blocks.iter().zip(lengths);
        let head = head.flat_map(|(block, length)| {
            let measures = block.measures.iter().copied();
            [f64::from(block.block), length as f64].into_iter().chain(measures)
        });
        let head: Vec<f64> = std::iter::once(blocks.len() as f64).chain(head).collect();
        let object: object_store::PutPayload =
            [numbers_to_bytes(head), brought].into_iter().collect();
        Ok(self.folder.put(&self.name(first.block), object).await?)
    }

    /// What all blocks but the task's `own` have come to, if they arrive within the `limit`.
    pub async fn wait(&self, own: &[u32], limit: Duration) -> Result<Option<Vec<Arrived>>> {
        let (started, folder) = (Instant::now(), &self.folder);
        // One may be replaced while others look, by a task that has other blocks than the one before.
        let mut seen = HashSet::new();
        let own_name = own.first().map(|first| self.name(*first));
        let mut missing: HashSet<u32> = (0..self.cut.blocks()).collect();
        own.iter().for_each(|block| {
            missing.remove(block);
        });
        let mut arrived = Vec::with_capacity(missing.len());
        while !missing.is_empty() {
            for object in folder.list().await? {
                let Some(name) = object.location.filename() else { continue };
                if !name.starts_with(&self.prefix) || own_name.as_deref() == Some(name) {
                    continue;
                }
                let version = (object.e_tag.clone(), object.last_modified);
                if seen.insert((name.to_string(), version)) {
                    let what = format!("{}{name}", folder.url());
                    let all = self.read(folder.get(name).await?, &what)?;
                    // Others may have been there before, when blocks were in other hands.
                    arrived
                        .extend(all.into_iter().filter(|one| missing.remove(&one.measured.block)));
                }
            }
            let waited = started.elapsed();
            if !missing.is_empty() && waited > limit {
                return Ok(None);
            }
            if !missing.is_empty() && waited > EAGER {
                let pause = (waited / PAUSES).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
                sleep(pause).await;
            }
        }
        Ok(Some(arrived))
    }

    /// Waits for the end of `work` at the barrier, on a thread that is not the `runtime`'s. Files are read and written by this
    /// thread, without others that would have to be woken.
    pub fn on_this_thread<F: Future>(&self, runtime: &Handle, work: F) -> F::Output {
        match self.folder.url().scheme() {
            "file" => futures::executor::block_on(work),
            _ => runtime.block_on(work),
        }
    }

    /// Forgets what a task has brought along, when nobody can want it any more.
    pub async fn forget(&self, own: &[u32]) -> Result<()> {
        let Some(first) = own.first() else { return Ok(()) };
        Ok(self.folder.delete(&self.name(*first)).await?)
    }

    /// What a task has brought.
    fn read(&self, mut bytes: Bytes, what: &str) -> Result<Vec<Arrived>> {
        let damaged = || JobError::Damaged {
            what: what.to_string(),
            reason: "it is not what blocks have come to".to_string(),
        };
        let mut numbers = |count: usize| {
            let length = count.saturating_mul(f64::BYTES);
            let (head, mut numbers) = (bytes.get(..length).ok_or_else(damaged)?, Vec::new());
            append_numbers(head, count, what, &mut numbers)?;
            bytes = bytes.slice(length..);
            Ok::<_, JobError>(numbers)
        };
        let count = numbers(1)?[0] as usize;
        let head = numbers(count.saturating_mul(2 + self.measures))?;
        let mut arrived = Vec::with_capacity(count);
        for row in head.chunks(2 + self.measures) {
            let [block, length, measures @ ..] = row else { return Err(damaged()) };
            let (block, length, measures) = (*block as u32, *length as usize, measures.to_vec());
            if block >= self.cut.blocks() || length > bytes.len() {
                return Err(damaged());
            }
            let brought = bytes.split_to(length);
            arrived.push(Arrived { measured: Measured { block, measures }, brought });
        }
        if bytes.is_empty() { Ok(arrived) } else { Err(damaged()) }
    }
}

/// As stores of files do it: outside of a runtime, the thread itself sleeps.
async fn sleep(pause: Duration) {
    match Handle::try_current() {
        Ok(_) => tokio::time::sleep(pause).await,
        Err(_) => std::thread::sleep(pause),
    }
}

#[cfg(test)]
mod tests {
    use super::super::resident::Resident;
    use super::super::testing::Executor;
    use super::*;
    use std::sync::Arc;
    use url::Url;

    const EVER: Duration = Duration::from_secs(60);

    /// Tasks of an executor, and a state of theirs.
    struct Tasks {
        _dir: tempfile::TempDir,
        state: Folder,
        executor: Executor,
    }

    impl Tasks {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let state = Folder(Url::from_directory_path(dir.path().join("state")).unwrap());
            Self { _dir: dir, state, executor: Executor::new(Resident::default(), 1) }
        }

        fn task(&self) -> Task<'_> {
            self.executor.task(0)
        }

        /// Three blocks of two rows, the last of one.
        fn barrier(&self) -> Barrier {
            let cut = Partitioned { count: 5, block_rows: 2 };
            Barrier::new(self.task(), (&self.state, "solved"), cut, 2).unwrap()
        }
    }

    fn arrived(block: u32) -> Arrived {
        let measures = vec![f64::from(block) / 3.0, -1.0];
        // The last brings nothing.
        let brought = Bytes::from(vec![block as u8; 6 - 3 * block as usize]);
        Arrived { measured: Measured { block, measures }, brought }
    }

    async fn arrive(tasks: &Tasks, blocks: &[u32]) {
        let all: Vec<_> = blocks.iter().copied().map(arrived).collect();
        let measured: Vec<_> = all.iter().map(|one| one.measured.clone()).collect();
        let lengths: Vec<_> = all.iter().map(|one| one.brought.len()).collect();
        let brought = all.into_iter().flat_map(|one| one.brought).collect();
        let brought = (lengths.as_slice(), brought);
        tasks.barrier().arrive(&measured, brought).await.unwrap();
    }

    #[tokio::test]
    async fn all_go_on_when_the_last_has_arrived() {
        let tasks = &Tasks::new();
        let wait = |own: &'static [u32], limit| async move {
            tasks.barrier().wait(own, limit).await.unwrap()
        };
        arrive(tasks, &[0, 2]).await;
        assert_eq!(wait(&[0, 2], Duration::ZERO).await, None);
        let last = async {
            arrive(tasks, &[1]).await;
            wait(&[1], EVER).await
        };
        let (first, last) = tokio::join!(wait(&[0, 2], EVER), last);
        assert_eq!(first.unwrap(), [arrived(1)]);
        assert_eq!(last.unwrap(), [arrived(0), arrived(2)]);
        // Tasks that are run again find all of them there, also if they have other blocks now.
        arrive(tasks, &[2]).await;
        assert_eq!(wait(&[2], Duration::ZERO).await.unwrap(), [arrived(0), arrived(1)]);
        assert_eq!(wait(&[0, 1, 2], Duration::ZERO).await.unwrap(), []);
        for own in [&[0, 2][..], &[2]] {
            tasks.barrier().forget(own).await.unwrap();
        }
        assert_eq!(wait(&[1], Duration::ZERO).await, None);
    }

    #[tokio::test]
    async fn barriers_after_each_step_are_told_apart() {
        let tasks = &Tasks::new();
        let [one, other] = [1, 2].map(|steps| tasks.barrier().after(steps));
        let come = |block: u32| (arrived(block).measured, arrived(block).brought);
        for (barrier, block) in [(&one, 0), (&one, 1), (&other, 2)] {
            let (measured, brought) = come(block);
            let brought = (&[brought.len()][..], brought);
            barrier.arrive(&[measured], brought).await.unwrap();
        }
        assert_eq!(one.wait(&[2], Duration::ZERO).await.unwrap().unwrap().len(), 2);
        assert_eq!(one.wait(&[1], Duration::ZERO).await.unwrap(), None);
        assert_eq!(other.wait(&[0, 1], Duration::ZERO).await.unwrap(), Some(vec![arrived(2)]));
        one.forget(&[0]).await.unwrap();
        assert_eq!(one.wait(&[2], Duration::ZERO).await.unwrap(), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thread_of_its_own_waits_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let executor = Executor::new(Resident::default(), 1);
        let elsewhere = Url::parse("memory://bucket/state/").unwrap();
        let memory = Arc::new(object_store::memory::InMemory::new());
        executor.runtime.register_object_store(&elsewhere, memory);
        for state in [Url::from_directory_path(dir.path()).unwrap(), elsewhere] {
            let cut = Partitioned { count: 5, block_rows: 2 };
            let state = Folder(state);
            let barrier = Barrier::new(executor.task(0), (&state, "solved"), cut, 2).unwrap();
            let runtime = Handle::current();
            let wait = |limit: Duration| {
                let (barrier, runtime) = (barrier.clone(), runtime.clone());
                std::thread::spawn(move || {
                    barrier.on_this_thread(&runtime, barrier.wait(&[0, 2], limit)).unwrap()
                })
            };
            // It sleeps.
            assert_eq!(wait(4 * EAGER).join().unwrap(), None);
            let waiting = wait(EVER);
            let Arrived { measured, brought } = arrived(1);
            barrier.arrive(&[measured], (&[brought.len()], brought)).await.unwrap();
            assert_eq!(waiting.join().unwrap(), Some(vec![arrived(1)]));
        }
    }

    #[tokio::test]
    async fn what_no_task_has_brought_is_refused() {
        let tasks = Tasks::new();
        let barrier = tasks.barrier();
        let folder = &barrier.folder;
        let of_numbers = |numbers: Vec<f64>| numbers_to_bytes(numbers).to_vec();
        for (name, object) in [
            ("short", vec![0; 7]),
            ("many", of_numbers(vec![1e300])),
            ("beyond", of_numbers(vec![1.0, 3.0, 0.0, 0.5, 0.5])),
            ("too-little", of_numbers(vec![1.0, 2.0, 3.0, 0.5, 0.5])),
            ("endless", of_numbers(vec![1.0, 2.0, f64::INFINITY, 0.5, 0.5])),
            ("too-much", [of_numbers(vec![1.0, 2.0, 3.0, 0.5, 0.5]), vec![0; 4]].concat()),
        ] {
            folder.put(name, object).await.unwrap();
            let error = barrier.wait(&[], EVER).await.unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("what blocks have come to"), "{error}");
            folder.delete(name).await.unwrap();
        }
    }
}
