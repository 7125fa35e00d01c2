//! The folder of intermediate results, which the executors of one machine can share: what one has written
//! there, the others read from the disk and not over a connection.

use std::fs::{self, DirEntry, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// A folder of intermediate results while an executor uses it.
///
/// Whoever has nobody beside him deletes what is in it: at the start, what executors that were killed have
/// left, and at the end, what his own have.
#[derive(Debug)]
pub(crate) struct WorkDir {
    folder: PathBuf,
    /// Locked by each executor that uses the folder. The operating system unlocks it however a process ends.
    users: File,
    /// The results of one cluster. Two could give two jobs the same name.
    shuffles: PathBuf,
    /// Rows that don't fit into this executor's memory.
    spilled: PathBuf,
    /// Locked by this executor, in the folder of these rows.
    _spills: File,
}

impl WorkDir {
    /// Begins to use a folder for the cluster of a scheduler, and creates it where there is none.
    pub(crate) fn open(folder: &Path, scheduler: &str) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let users = File::create(folder.join("users.lock"))?;
        clear_if_unused(folder, &users)?;
        users.lock_shared()?;
        let shuffles = folder.join(SHUFFLES).join(scheduler.replace([':', '/'], "_"));
        fs::create_dir_all(&shuffles)?;
        delete_spilled_by_killed(folder)?;
        let (spilled, spills) = own_spills(&folder.join(SPILLED))?;
        let folder = folder.to_path_buf();
        Ok(Self { folder, users, shuffles, spilled, _spills: spills })
    }

    /// Where the results of tasks are.
    pub(crate) fn shuffles(&self) -> &Path {
        &self.shuffles
    }

    /// Where rows are that don't fit into memory.
    pub(crate) fn spilled(&self) -> &Path {
        &self.spilled
    }

    /// Deletes the results of jobs of which nothing has changed for so long, those that a scheduler which was
    /// killed has not had deleted, and rows that executors which were killed have left.
    pub(crate) fn delete_unchanged(&self, age: Duration) -> io::Result<()> {
        let now = SystemTime::now();
        let mut first_error = Ok(());
        for cluster in folders(&self.folder.join(SHUFFLES))? {
            for job in folders(&cluster)? {
                let deleted = last_change(&job).and_then(|changed| match changed {
                    Some(at) if now.duration_since(at).is_ok_and(|since| since > age) => {
                        delete(&job)
                    }
                    _ => Ok(()),
                });
                first_error = first_error.and(deleted);
            }
        }
        first_error.and(delete_spilled_by_killed(&self.folder))
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let left = || {
            self.users.unlock()?;
            clear_if_unused(&self.folder, &self.users)
        };
        if let Err(error) = delete(&self.spilled).and_then(|()| left()) {
            let folder = self.folder.display();
            tracing::warn!(%folder, %error, "intermediate results are left for the next executor to delete");
        }
    }
}

const SHUFFLES: &str = "shuffles";
const SPILLED: &str = "spilled";

/// Deletes everything if nobody else uses a folder. Leaves its lock open.
fn clear_if_unused(folder: &Path, users: &File) -> io::Result<()> {
    if !is_free(users)? {
        return Ok(());
    }
    delete(&folder.join(SHUFFLES))?;
    delete(&folder.join(SPILLED))?;
    users.unlock()
}

/// Takes a lock if nobody else has it.
fn is_free(lock: &File) -> io::Result<bool> {
    match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A new folder below `spilled`, with a lock that is held. It gets its name when it is locked, so that it is never
/// taken for that of a killed executor.
fn own_spills(spilled: &Path) -> io::Result<(PathBuf, File)> {
    let name = Uuid::new_v4().simple().to_string();
    let (new, own) = (spilled.join(format!("{name}{NEW}")), spilled.join(name));
    fs::create_dir_all(&new)?;
    let lock = File::create(new.join(LOCK))?;
    lock.lock()?;
    fs::rename(&new, &own)?;
    Ok((own, lock))
}

/// Deletes what executors have spilled that were killed: their locks are free.
fn delete_spilled_by_killed(folder: &Path) -> io::Result<()> {
    for spills in folders(&folder.join(SPILLED))? {
        if spills.to_string_lossy().ends_with(NEW) {
            continue;
        }
        let free = match File::open(spills.join(LOCK)) {
            Ok(lock) => is_free(&lock)?,
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if free {
            delete(&spills)?;
        }
    }
    Ok(())
}

/// The lock in the folder of an executor's spilled rows.
const LOCK: &str = "lock";

/// How the name of such a folder ends before it is locked.
const NEW: &str = ".new";

/// The folders in a folder.
fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let children = children(folder)?.into_iter();
    Ok(children.map(|child| child.path()).filter(|path| path.is_dir()).collect())
}

/// What is in a folder; nothing if another executor has deleted it meanwhile.
fn children(folder: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// When a file or anything in a folder has changed; `None` if another executor has deleted it meanwhile.
fn last_change(path: &Path) -> io::Result<Option<SystemTime>> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    let mut changed = Some(metadata.modified()?);
    if metadata.is_dir() {
        for child in children(path)? {
            changed = changed.max(last_change(&child.path())?);
        }
    }
    Ok(changed)
}

fn delete(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of a job in the folder of an executor.
    fn write(executor: &WorkDir, job: &str) -> PathBuf {
        let stage = executor.shuffles().join(job).join("1");
        fs::create_dir_all(&stage).unwrap();
        let file = stage.join("data.arrow");
        fs::write(&file, "rows").unwrap();
        file
    }

    #[test]
    fn the_last_one_deletes_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let first = WorkDir::open(folder.path(), "here:1").unwrap();
        let file = write(&first, "job");
        let second = WorkDir::open(folder.path(), "here:1").unwrap();
        assert_eq!(first.shuffles(), second.shuffles());
        assert!(file.exists());
        drop(first);
        assert!(file.exists());
        let spilled = second.spilled().join("rows");
        fs::write(&spilled, "rows").unwrap();
        drop(second);
        assert!(!file.exists() && !spilled.exists());
    }

    #[test]
    fn what_killed_executors_leave_is_deleted_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let killed = WorkDir::open(folder.path(), "here:1").unwrap();
        let file = write(&killed, "job");
        // As the operating system does.
        killed.users.unlock().unwrap();
        killed._spills.unlock().unwrap();
        let next = WorkDir::open(folder.path(), "here:1").unwrap();
        assert!(!file.exists() && next.shuffles().exists());
    }

    #[test]
    fn what_a_killed_executor_has_spilled_is_deleted_while_others_run() {
        let folder = tempfile::tempdir().unwrap();
        let other = WorkDir::open(folder.path(), "here:1").unwrap();
        let killed = WorkDir::open(folder.path(), "here:1").unwrap();
        let [kept, left] = [&other, &killed].map(|executor| {
            let file = executor.spilled().join("rows");
            fs::write(&file, "rows").unwrap();
            file
        });
        // As the operating system does.
        killed._spills.unlock().unwrap();
        let next = WorkDir::open(folder.path(), "here:1").unwrap();
        assert!(kept.exists() && !left.exists() && next.spilled().exists());
        drop(next);
        other.delete_unchanged(Duration::from_secs(3600)).unwrap();
        assert!(kept.exists());
    }

    #[test]
    fn clusters_do_not_see_each_others_results() {
        let folder = tempfile::tempdir().unwrap();
        let one = WorkDir::open(folder.path(), "here:1").unwrap();
        let other = WorkDir::open(folder.path(), "here:2").unwrap();
        let file = write(&one, "job");
        assert!(file.exists() && !other.shuffles().join("job").exists());
    }

    #[test]
    fn jobs_that_nobody_has_deleted_are_deleted_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let executor = WorkDir::open(folder.path(), "here:1").unwrap();
        let hour = Duration::from_secs(3600);
        let at = SystemTime::now() - 2 * hour;
        let age = |path: &Path| File::open(path).unwrap().set_modified(at).unwrap();
        let (old, running) = (write(&executor, "old"), write(&executor, "running"));
        for file in [&old, &running] {
            // Only a file of the job that runs has changed, as when a task goes on writing it.
            for folder in file.ancestors().skip(1).take(2) {
                age(folder);
            }
        }
        age(&old);
        fs::write(folder.path().join(SHUFFLES).join("a file"), "").unwrap();
        executor.delete_unchanged(3 * hour).unwrap();
        assert!(old.exists() && running.exists());
        executor.delete_unchanged(hour).unwrap();
        assert!(!executor.shuffles().join("old").exists() && running.exists());
    }
}
