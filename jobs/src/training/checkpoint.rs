//! What a training has come to, written down beside its blocks and states, so that whoever goes on with the run does
//! not do it again.

use super::Training;
use crate::{JobError, Result};
use nightshift_catalog::storage::Storage;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The folder of what is written down within a training's folder.
const FOLDER: &str = "checkpoints";

/// The time between two checkpoints of iterations: to write one takes as long as some iterations.
const BETWEEN: Duration = Duration::from_secs(1);

/// The object that says which process works in the folder.
const OWNER: &str = "owner";

/// How long it is believed that this still is the process. Whoever was stopped for longer looks again.
const BELIEVED: Duration = Duration::from_millis(500);

/// A number with all its bits. JSON's readers may lose the last one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Exact(pub f64);

impl From<u64> for Exact {
    fn from(bits: u64) -> Self {
        Self(f64::from_bits(bits))
    }
}

impl From<Exact> for u64 {
    fn from(number: Exact) -> Self {
        number.0.to_bits()
    }
}

/// Numbers with all their bits.
pub fn exact(numbers: &[f64]) -> Vec<Exact> {
    numbers.iter().copied().map(Exact).collect()
}

/// The same numbers as others compute with them.
pub fn inexact(numbers: &[Exact]) -> Vec<f64> {
    numbers.iter().map(|number| number.0).collect()
}

/// What is written down of a training.
pub struct Checkpoints {
    storage: Storage,
    /// The names of what another process has written down, or this one when it failed.
    found: BTreeSet<String>,
    last: Mutex<Instant>,
    run: String,
    /// Who this process is.
    owner: String,
    /// When it last saw that it still works in the folder.
    seen: Mutex<Instant>,
}

impl Checkpoints {
    /// None yet.
    pub fn none(training: &Storage, run: &str) -> Self {
        let now = Instant::now();
        Self {
            storage: training.folder(FOLDER),
            found: BTreeSet::new(),
            last: Mutex::new(now),
            run: run.to_string(),
            owner: Uuid::now_v7().to_string(),
            seen: Mutex::new(now),
        }
    }

    /// Those in the folder of a training, in which this process works from now on, and no other.
    pub async fn open(training: &Storage, run: &str) -> Result<Self> {
        let none = Self::none(training, run);
        none.storage.put(OWNER, none.owner.clone()).await?;
        let listed = none.storage.list().await?;
        let names = listed.iter().filter_map(|object| object.location.filename());
        Ok(Self { found: names.map(str::to_string).collect(), ..none })
    }

    /// Fails if another process works in the folder since: nothing of it may be deleted then.
    pub async fn ensure_ours(&self) -> Result<()> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.elapsed() < BELIEVED {
            return Ok(());
        }
        let now = Instant::now();
        if self.storage.get(OWNER).await? != self.owner.as_bytes() {
            return Err(JobError::Fenced { run: self.run.clone() });
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    fn object(name: &str) -> String {
        format!("{name}.json")
    }

    async fn read<T: DeserializeOwned>(&self, object: &str) -> Result<T> {
        let bytes = self.storage.get(object).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.damaged(object, &error))
    }

    fn damaged(&self, object: &str, error: &serde_json::Error) -> JobError {
        let what = format!("the checkpoint {}{object}", self.storage.url());
        JobError::Damaged { what, reason: error.to_string() }
    }

    async fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let object = Self::object(name);
        let text = serde_json::to_vec(value).map_err(|error| self.damaged(&object, &error))?;
        Ok(self.storage.put(&object, text).await?)
    }

    /// The last of the states that were written down under numbers after `name`.
    pub async fn last<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let prefix = format!("{name}-");
        match self.found.iter().rfind(|found| found.starts_with(&prefix)) {
            Some(object) => self.read(object).await.map(Some),
            None => Ok(None),
        }
    }

    /// Writes a state down under a number after `name`, unless another was written just now; says whether it has.
    pub async fn keep<T: Serialize>(
        &self,
        name: &str,
        number: usize,
        state: impl FnOnce() -> T,
    ) -> Result<bool> {
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() < BETWEEN {
                return Ok(false);
            }
            *last = Instant::now();
        }
        self.write(&format!("{name}-{number:05}"), &state()).await?;
        Ok(true)
    }

    /// Forgets the state of a number.
    pub async fn forget(&self, name: &str, number: usize) -> Result<()> {
        self.ensure_ours().await?;
        Ok(self.storage.delete(&Self::object(&format!("{name}-{number:05}"))).await?)
    }
}

impl Training<'_> {
    /// What `make` comes to, or has come to before.
    pub(super) async fn once<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        make: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let object = Checkpoints::object(name);
        if self.checkpoints.found.contains(&object) {
            return self.checkpoints.read(&object).await;
        }
        let made = make.await?;
        self.checkpoints.write(name, &made).await?;
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightshift_catalog::storage::{Stores, parse_url};

    #[tokio::test]
    async fn the_last_state_is_the_one_with_the_highest_number() {
        let folder = tempfile::tempdir().unwrap();
        let url = parse_url(folder.path().to_str().unwrap()).unwrap();
        let storage = Storage::open(&url, &Stores::default()).unwrap();
        let checkpoints = Checkpoints::open(&storage, "r1").await.unwrap();
        assert_eq!(checkpoints.last::<Exact>("x").await.unwrap(), None);
        // The first would come too early.
        assert!(!checkpoints.keep("x", 1, || Exact(1.0)).await.unwrap());
        for (number, value) in [(9, 0.1), (10, 0.1 + 0.2), (2, f64::MIN_POSITIVE)] {
            checkpoints.write(&format!("x-{number:05}"), &Exact(value)).await.unwrap();
        }
        checkpoints.write("xy-00011", &Exact(4.0)).await.unwrap();
        let checkpoints = Checkpoints::open(&storage, "r1").await.unwrap();
        assert_eq!(checkpoints.last("x").await.unwrap(), Some(Exact(0.1 + 0.2)));
        checkpoints.forget("x", 10).await.unwrap();
        let checkpoints = Checkpoints::open(&storage, "r1").await.unwrap();
        assert_eq!(checkpoints.last("x").await.unwrap(), Some(Exact(0.1)));
    }

    #[tokio::test]
    async fn who_was_here_before_deletes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let url = parse_url(folder.path().to_str().unwrap()).unwrap();
        let storage = Storage::open(&url, &Stores::default()).unwrap();
        let one = Checkpoints::open(&storage, "r1").await.unwrap();
        one.write("x-00001", &Exact(1.0)).await.unwrap();
        let other = Checkpoints::open(&storage, "r1").await.unwrap();
        // It was stopped for a while.
        let long_ago = Instant::now().checked_sub(2 * BELIEVED).unwrap();
        *one.seen.lock().unwrap() = long_ago;
        *other.seen.lock().unwrap() = long_ago;
        assert!(matches!(one.forget("x", 1).await, Err(JobError::Fenced { .. })));
        assert_eq!(other.last("x").await.unwrap(), Some(Exact(1.0)));
        other.forget("x", 1).await.unwrap();
    }
}
