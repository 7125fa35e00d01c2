//! States: written in parts, and read as a whole.

use super::{Held, Resident};
use crate::superstep::exec::Task;
use crate::superstep::layout::{
    Folder, Partitioned, numbers_to_bytes, read_numbers, shared_numbers_to_bytes,
};
use crate::{JobError, Result};
use arrow::datatypes::ArrowNativeType;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use nightshift_udfs::csr::Value;
use rayon::ThreadPool;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use std::sync::Arc;

/// Parts of a state that are read at once. As many may be in memory besides, which are being put together.
const PARTS: usize = 16;

/// A part is kept if so many states of its size would be: two sides have one each, and the next comes in parts.
const STATES: usize = 3;

impl Resident {
    /// Writes the task's part of a state of `cut` rows. It is kept as well, if there is room: whoever needs the whole next
    /// need not read it again.
    pub async fn write_part<V: ArrowNativeType>(
        &self,
        task: Task<'_>,
        folder: &Folder,
        cut: Partitioned,
        part: Vec<V>,
    ) -> Result<()> {
        self.write_bytes(task, folder, cut, numbers_to_bytes(part)).await
    }

    /// The same of numbers that are bytes already.
    pub async fn write_bytes(
        &self,
        task: Task<'_>,
        folder: &Folder,
        cut: Partitioned,
        bytes: Bytes,
    ) -> Result<()> {
        folder.open(task.runtime)?.put(&Folder::part(task.block), bytes.clone()).await?;
        let rows = cut.rows(task.block).max(1);
        if self.holds(STATES * (bytes.len() / rows) * cut.count as usize) {
            let held = Held { bytes: bytes.len(), value: Arc::new(bytes) };
            self.others.insert(written(folder, task.block), held).await;
        }
        Ok(())
    }

    /// Writes a state of which the task has all parts, `width` numbers a row, and [keeps](Self::keep_state) it.
    pub async fn write_state<V: Value + ArrowNativeType>(
        &self,
        task: Task<'_>,
        folder: &Folder,
        (cut, width): (Partitioned, usize),
        state: Arc<Vec<V>>,
    ) -> Result<()> {
        self.write_parts(task, folder, (cut, width), 0..cut.blocks(), &state).await?;
        self.keep_state(folder, state).await;
        Ok(())
    }

    /// Keeps a state as what [`Self::state`] gives, if there is room.
    pub async fn keep_state<V: Value>(&self, folder: &Folder, state: Arc<Vec<V>>) {
        self.forget_others(folder.0.as_str()).await;
        let held = Held { bytes: state.len() * V::BYTES, value: state };
        self.others.insert(folder.0.to_string(), held).await;
    }

    /// Writes the parts of some blocks of a whole state, `width` numbers a row.
    pub async fn write_parts<V: Value + ArrowNativeType>(
        &self,
        task: Task<'_>,
        folder: &Folder,
        (cut, width): (Partitioned, usize),
        blocks: impl IntoIterator<Item = u32>,
        state: &Arc<Vec<V>>,
    ) -> Result<()> {
        let bytes = shared_numbers_to_bytes(Arc::clone(state));
        let storage = &folder.open(task.runtime)?;
        let parts = blocks.into_iter().map(|block| {
            let range = cut.range(block);
            let at = |row: u64| row as usize * width * V::BYTES;
            let part = bytes.slice(at(range.start)..at(range.end));
            async move { storage.put(&Folder::part(block), part).await }
        });
        let parts: Vec<_> = parts.collect();
        Ok(futures::stream::iter(parts).buffer_unordered(PARTS).try_collect::<()>().await?)
    }

    /// A part: what was kept of it, which is not kept any longer, or what is in the store.
    async fn part(&self, task: Task<'_>, folder: &Folder, block: u32) -> Result<Bytes> {
        let kept = self.others.remove(&written(folder, block)).await;
        match kept.and_then(|held| held.value.downcast::<Bytes>().ok()) {
            Some(bytes) => Ok(Bytes::clone(&bytes)),
            None => Ok(folder.open(task.runtime)?.get(&Folder::part(block)).await?),
        }
    }

    /// The whole of a state: the parts of all blocks, `width` numbers a row, one after another. Earlier states of the
    /// series are forgotten. The task's threads put the parts together.
    pub async fn state<V: Value>(
        &self,
        task: Task<'_>,
        folder: &Folder,
        cut: Partitioned,
        width: usize,
    ) -> Result<Arc<Vec<V>>> {
        self.changed_state(task, folder, (cut, width), ("", |_: &mut [V]| ())).await
    }

    /// A state to change: what was kept of it, which is not kept any longer, or a copy if someone else has it. Memory that
    /// was used is had at once; a system may take longer to give the same again than a step takes.
    pub async fn take_state<V: Value>(
        &self,
        task: Task<'_>,
        folder: &Folder,
        cut: Partitioned,
        width: usize,
    ) -> Result<Vec<V>> {
        let state = self.state(task, folder, cut, width).await?;
        self.others.invalidate(folder.0.as_str()).await;
        self.others.run_pending_tasks().await;
        Ok(Arc::unwrap_or_clone(state))
    }

    /// What was [left](Self::leave) by that name, if it is still there.
    pub async fn take<T: Send + Sync + 'static>(&self, name: &str) -> Option<T> {
        let left = self.others.remove(name).await?.value.downcast().ok();
        self.others.run_pending_tasks().await;
        left.and_then(Arc::into_inner)
    }

    /// Leaves something of so many bytes for the next task, in the place of what has the same name.
    pub async fn leave<T: Send + Sync + 'static>(&self, name: String, value: T, bytes: usize) {
        self.others.insert(name, Held { bytes, value: Arc::new(value) }).await;
    }

    /// What was left with a state by that name. Nothing else of the state is kept any longer then.
    pub async fn take_with_state<T: Send + Sync + 'static>(
        &self,
        folder: &Folder,
        name: &str,
    ) -> Option<T> {
        let taken = self.take(&format!("{}{name}", folder.0)).await?;
        let folder = folder.0.to_string();
        self.forget(move |name| name.starts_with(&folder)).await;
        Some(taken)
    }

    /// Leaves something of so many bytes with a state.
    pub async fn leave_with_state<T: Send + Sync + 'static>(
        &self,
        folder: &Folder,
        name: &str,
        value: T,
        bytes: usize,
    ) {
        self.forget_others(folder.0.as_str()).await;
        self.leave(format!("{}{name}", folder.0), value, bytes).await;
    }

    /// The whole of a state, of whose rows each part has gone through a change, which also has a name.
    pub async fn changed_state<V: Value>(
        &self,
        task: Task<'_>,
        folder: &Folder,
        (cut, width): (Partitioned, usize),
        (changed, change): (&str, impl Fn(&mut [V]) + Clone + Send + Sync + 'static),
    ) -> Result<Arc<Vec<V>>> {
        let read = async {
            let (blocks, state) = (0..cut.blocks(), vec![V::default(); cut.count as usize * width]);
            let state = self.read_parts(task, folder, (cut, width), blocks, state, change).await?;
            let size = state.len() * V::BYTES;
            Ok((state, size))
        };
        let found = self.of_state(folder, changed, read).await?;
        if !changed.is_empty() {
            // Not both. Who wants it as it was written reads it again.
            self.others.invalidate(folder.0.as_str()).await;
        }
        Ok(found)
    }

    /// Reads the parts of some blocks, in their order, into their places in a state. The rows of each go through a change.
    pub async fn read_parts<V: Value>(
        &self,
        task: Task<'_>,
        folder: &Folder,
        (cut, width): (Partitioned, usize),
        blocks: impl IntoIterator<Item = u32>,
        mut state: Vec<V>,
        change: impl Fn(&mut [V]) + Clone + Send + Sync + 'static,
    ) -> Result<Vec<V>> {
        let parts = blocks
            .into_iter()
            .map(|block| async move { Ok((block, self.part(task, folder, block).await?)) });
        let parts: Vec<_> = parts.collect();
        let mut parts = futures::stream::iter(parts).buffered(PARTS).ready_chunks(PARTS);
        while let Some(parts) = parts.next().await {
            let parts: Vec<(u32, Bytes)> = parts.into_iter().collect::<Result<_>>()?;
            let (name, change) = (folder.0.to_string(), change.clone());
            let put = move |pool: &ThreadPool| {
                let (mut rest, mut next) = (state.as_mut_slice(), 0);
                let rooms = parts.into_iter().map_while(|(block, bytes)| {
                    let rows = cut.range(block);
                    rest.split_off_mut(..rows.start.checked_sub(next)? as usize * width)?;
                    next = rows.end;
                    Some((bytes, rest.split_off_mut(..cut.rows(block) * width)?))
                });
                let rooms: Vec<_> = rooms.collect();
                let read = |(bytes, room): (Bytes, &mut [V])| {
                    read_numbers(&bytes, &name, room)?;
                    change(room);
                    Ok::<_, JobError>(())
                };
                let parts = rooms.into_par_iter().with_max_len(1);
                pool.install(|| parts.try_for_each(read)).map(|()| state)
            };
            state = task.threads.run(put).await??;
        }
        Ok(state)
    }

    /// What belongs to a state by a name, read by `read` if it isn't there. What belongs to earlier states of the series is
    /// forgotten then.
    pub async fn of_state<T: Send + Sync + 'static>(
        &self,
        folder: &Folder,
        name: &str,
        read: impl Future<Output = Result<(T, usize)>>,
    ) -> Result<Arc<T>> {
        let name = format!("{}{name}", folder.0);
        if !self.others.contains_key(&name) {
            self.forget_others(folder.0.as_str()).await;
        }
        self.get(name, read).await
    }

    /// Forgets what was kept of other states of the same series: steps after each other want one each. The folder of a
    /// state ends in the number of its iteration.
    async fn forget_others(&self, folder: &str) {
        let name = folder.trim_end_matches('/');
        let series = name.trim_end_matches(|end: char| end.is_ascii_digit()).to_string();
        if series.len() == name.len() {
            return;
        }
        let this = folder.to_string();
        self.forget(move |name| name.contains(&series) && !name.contains(&this)).await;
    }

    /// Forgets what has some names.
    async fn forget(&self, names: impl Fn(&str) -> bool + Send + Sync + 'static) {
        // It fails only without what the cache was built with.
        if let Err(error) = self.others.invalidate_entries_if(move |name, _| names(name)) {
            tracing::warn!(%error, "earlier states stay in memory");
        }
        self.others.run_pending_tasks().await;
    }
}

/// The name of a part that was written here.
fn written(folder: &Folder, block: u32) -> String {
    format!("{}{} as it was written", folder.0, Folder::part(block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superstep::resident::Reuse;
    use crate::threads::Threads;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use tempfile::TempDir;
    use url::Url;

    const CUT: Partitioned = Partitioned { count: 2000, block_rows: 1500 };

    /// What a task has.
    struct Executor {
        dir: TempDir,
        runtime: RuntimeEnv,
        resident: Resident,
        reuse: Reuse,
        threads: Arc<Threads>,
    }

    impl Executor {
        fn new(bytes: u64) -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
                runtime: RuntimeEnv::default(),
                resident: Resident::new(bytes),
                reuse: Reuse::default(),
                threads: Arc::new(Threads::new(2)),
            }
        }

        fn task(&self, block: u32) -> Task<'_> {
            let Self { runtime, resident, reuse, threads, .. } = self;
            Task { block, runtime, resident, reuse, threads }
        }

        fn folder(&self, name: &str) -> Folder {
            let training = Url::from_directory_path(self.dir.path().join("training")).unwrap();
            Folder(training.join(&format!("state/{name}/")).unwrap())
        }

        /// Writes a state of 1, 2, 3 and so on, times a factor, two numbers a row.
        async fn write(&self, folder: &Folder, factor: f32) {
            for block in 0..CUT.blocks() {
                let range = CUT.range(block);
                let part = (2 * range.start..2 * range.end).map(|at| at as f32 * factor).collect();
                let task = self.task(block);
                self.resident.write_part::<f32>(task, folder, CUT, part).await.unwrap();
            }
        }

        async fn read(&self, folder: &Folder) -> Result<Arc<Vec<f32>>> {
            self.resident.state(self.task(0), folder, CUT, 2).await
        }

        /// The names of what is kept of states, without that of the training.
        fn names(&self) -> Vec<String> {
            let last = |name: &str| Some(name.rsplit_once("state/")?.1.to_string());
            let mut names: Vec<_> =
                self.resident.others.iter().filter_map(|(name, _)| last(&name)).collect();
            names.sort();
            names
        }
    }

    fn expected(factor: f32) -> Vec<f32> {
        (0..4000).map(|at| at as f32 * factor).collect()
    }

    /// Of a training's states, the last of each side is kept.
    #[tokio::test]
    async fn forgets_states_when_the_next_is_wanted() {
        let executor = Executor::new(1 << 30);
        for iteration in 9..12 {
            for side in ["user", "item"] {
                let folder = executor.folder(&format!("{side}-{iteration:05}"));
                executor.write(&folder, iteration as f32).await;
                assert_eq!(*executor.read(&folder).await.unwrap(), expected(iteration as f32));
            }
        }
        assert_eq!(executor.names(), ["item-00011/", "user-00011/"]);
        // One that is wanted again is read again.
        let again = executor.folder("user-00009");
        assert_eq!(*executor.read(&again).await.unwrap(), expected(9.0));
    }

    #[tokio::test]
    async fn parts_are_kept_until_the_whole_is_wanted() {
        let executor = Executor::new(1 << 30);
        let folder = executor.folder("user-00001");
        executor.write(&folder, 1.0).await;
        assert_eq!(executor.names().len(), CUT.blocks() as usize);
        // One part is from the store, and the other is not: what is there has the wrong length.
        let store = folder.open(&executor.runtime).unwrap();
        store.put(&Folder::part(0), Bytes::from_static(b"damaged")).await.unwrap();
        executor.resident.others.remove(&written(&folder, 1)).await.unwrap();
        assert_eq!(*executor.read(&folder).await.unwrap(), expected(1.0));
        assert_eq!(executor.names(), ["user-00001/"]);
    }

    #[tokio::test]
    async fn a_changed_state_is_kept_in_the_place_of_the_state() {
        let executor = Executor::new(1 << 30);
        let (first, second) = (executor.folder("user-00001"), executor.folder("user-00002"));
        let change = |rows: &mut [f32]| rows.iter_mut().for_each(|value| *value *= 3.0);
        for folder in [&first, &second] {
            executor.write(folder, 1.0).await;
            let task = executor.task(0);
            let size = async { Ok((7, 4)) };
            assert_eq!(*executor.resident.of_state(folder, "size", size).await.unwrap(), 7);
            assert_eq!(*executor.read(folder).await.unwrap(), expected(1.0));
            for _ in 0..2 {
                let changed =
                    executor.resident.changed_state(task, folder, (CUT, 2), ("tripled", change));
                assert_eq!(*changed.await.unwrap(), expected(3.0));
            }
        }
        assert_eq!(executor.names(), ["user-00002/size", "user-00002/tripled"]);
        assert_eq!(*executor.read(&second).await.unwrap(), expected(1.0));
    }

    #[tokio::test]
    async fn a_whole_state_is_written_in_the_same_parts() {
        let executor = Executor::new(1 << 30);
        let (before, whole) = (executor.folder("user-00001"), executor.folder("user-00002"));
        executor.write(&before, 1.0).await;
        executor.read(&before).await.unwrap();
        let written = executor.resident.write_state(
            executor.task(0),
            &whole,
            (CUT, 2),
            Arc::new(expected(2.0)),
        );
        written.await.unwrap();
        // It is in the place of the one before.
        assert_eq!(executor.names(), ["user-00002/"]);
        assert_eq!(*executor.read(&whole).await.unwrap(), expected(2.0));
        // Others read the same.
        let runtime = &executor.runtime;
        let other = Resident::new(1 << 30);
        let task = Task { resident: &other, runtime, ..executor.task(0) };
        assert_eq!(*other.state::<f32>(task, &whole, CUT, 2).await.unwrap(), expected(2.0));
    }

    #[tokio::test]
    async fn a_state_that_is_taken_is_not_copied() {
        let executor = Executor::new(1 << 30);
        let folder = executor.folder("user-00001");
        executor.write(&folder, 1.0).await;
        let take = || executor.resident.take_state::<f32>(executor.task(0), &folder, CUT, 2);
        let place = executor.read(&folder).await.unwrap().as_ptr();
        let taken = take().await.unwrap();
        assert_eq!((taken.as_ptr(), &taken), (place, &expected(1.0)));
        // Whoever has it besides keeps it, and what is not kept is read.
        let kept = executor.read(&folder).await.unwrap();
        assert_eq!(take().await.unwrap(), *kept);
        assert_eq!(executor.names(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_is_left_is_taken_once() {
        let executor = Executor::new(1 << 30);
        let (first, second) = (executor.folder("user-00001"), executor.folder("user-00002"));
        let resident = &executor.resident;
        let room = vec![1.0f32; 1000];
        let place = room.as_ptr();
        resident.leave("room".to_string(), room, 4000).await;
        for folder in [&first, &second] {
            executor.write(folder, 1.0).await;
            executor.read(folder).await.unwrap();
            resident.leave_with_state(folder, "sum", 7u32, 4).await;
        }
        // What was left with the state before is forgotten with it.
        assert_eq!(resident.take_with_state::<u32>(&first, "sum").await, None);
        assert_eq!(executor.names(), ["user-00002/", "user-00002/sum"]);
        assert_eq!(resident.take_with_state::<u32>(&second, "sum").await, Some(7));
        assert_eq!(resident.take_with_state::<u32>(&second, "sum").await, None);
        assert_eq!(executor.names(), Vec::<String>::new());
        let taken: Vec<f32> = resident.take("room").await.unwrap();
        assert_eq!(taken.as_ptr(), place);
        assert_eq!(resident.take::<Vec<f32>>("room").await, None);
    }

    #[tokio::test]
    async fn a_state_is_not_kept_in_parts_where_there_is_no_room_for_it() {
        // Three states of 16,000 bytes are more than the 7/16 of that which are for states.
        let executor = Executor::new(100_000);
        let folder = executor.folder("user-00001");
        executor.write(&folder, 1.0).await;
        assert_eq!(executor.names(), Vec::<String>::new());
        assert_eq!(*executor.read(&folder).await.unwrap(), expected(1.0));
    }

    #[tokio::test]
    async fn a_part_of_another_length_is_refused() {
        let executor = Executor::new(1 << 30);
        let folder = executor.folder("user-00001");
        executor.write(&folder, 1.0).await;
        executor.resident.others.invalidate_all();
        let store = folder.open(&executor.runtime).unwrap();
        store.put(&Folder::part(1), vec![0; 4]).await.unwrap();
        let error = executor.read(&folder).await.unwrap_err().to_string();
        assert!(
            error.contains("user-00001") && error.contains("4 bytes instead of 4000"),
            "{error}"
        );
    }
}
