//! Leadership by lease: of the processes that share a warehouse, one leads at a time.
//!
//! Terms are numbered, each an object of its own. A term is begun by creating its object, which one process succeeds in;
//! its leader writes the object again and again. Who sees it unchanged for the length of the lease, by its own clock,
//! may begin the next term. So clocks need not agree, and the store needs no more than creation if absent.
//!
//! A leader that was stopped can believe for a moment that it still leads. What it does then is fenced where it is
//! written down: by the number of the next event of a journal, or the next version of the registry.

use crate::storage::Storage;
use crate::warehouse::Warehouse;
use crate::{CatalogError, Result};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The folder of terms within the warehouse.
const FOLDER: &str = "_nightshift/lease";

/// How often a leader writes its term within the length of the lease, and others look at it.
const BEATS: u32 = 4;

/// What a leader says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Who it is: no two processes have the same.
    pub id: String,
    /// Where executors and clients reach it.
    pub address: String,
}

/// The object of a term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Term {
    leader: Leader,
    /// Counts how often it was written.
    beat: u64,
    /// Whether its leader has given it up.
    over: bool,
}

/// A process that leads, or waits to.
#[derive(Debug)]
pub struct Candidate {
    storage: Storage,
    leader: Leader,
    length: Duration,
    /// What was seen of the last term, and since when it has been like that.
    seen: Option<(u64, Option<Term>, Instant)>,
}

/// A term that this process leads.
#[derive(Debug)]
pub struct Lease {
    storage: Storage,
    number: u64,
    term: Term,
    length: Duration,
    /// When it was last written, or begun to be.
    written: Instant,
}

fn object(number: u64) -> String {
    format!("{number:08}.json")
}

fn encode(term: &Term) -> Result<Vec<u8>> {
    serde_json::to_vec(term).map_err(|error| CatalogError::Damaged {
        url: FOLDER.to_string(),
        reason: error.to_string(),
    })
}

/// The numbers of the terms that are there.
async fn terms(storage: &Storage) -> Result<Vec<u64>> {
    let listed = storage.list().await?;
    let names = listed.iter().filter_map(|object| object.location.filename());
    Ok(names.filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect())
}

/// The number of the last term, if there was one.
async fn last(storage: &Storage) -> Result<Option<u64>> {
    Ok(terms(storage).await?.into_iter().max())
}

/// What is known of a term; `None` if it can't be read, as when it was only half written.
async fn read(storage: &Storage, number: u64) -> Result<Option<Term>> {
    match storage.get(&object(number)).await {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Who leads now, as far as is written down.
pub async fn leader(warehouse: &Warehouse) -> Result<Option<Leader>> {
    let storage = warehouse.storage().folder(FOLDER);
    let Some(number) = last(&storage).await? else { return Ok(None) };
    let term = read(&storage, number).await?.filter(|term| !term.over);
    Ok(term.map(|term| term.leader))
}

impl Candidate {
    /// A process that would lead, reached at `address`, for leases of a length.
    pub fn new(warehouse: &Warehouse, address: String, length: Duration) -> Self {
        let leader = Leader { id: Uuid::now_v7().to_string(), address };
        Self { storage: warehouse.storage().folder(FOLDER), leader, length, seen: None }
    }

    /// How long to wait between two attempts.
    pub fn pause(&self) -> Duration {
        self.length / BEATS
    }

    /// Begins a term if nobody leads.
    pub async fn attempt(&mut self) -> Result<Option<Lease>> {
        let mut old = terms(&self.storage).await?;
        let number = old.iter().copied().max();
        if let Some(number) = number {
            let term = read(&self.storage, number).await?;
            let over = term.as_ref().is_some_and(|term| term.over);
            match &self.seen {
                Some((seen, was, since)) if *seen == number && *was == term => {
                    if !over && since.elapsed() < self.length {
                        return Ok(None);
                    }
                }
                _ => {
                    self.seen = Some((number, term, Instant::now()));
                    if !over {
                        return Ok(None);
                    }
                }
            }
        }
        let next = number.map_or(1, |number| number + 1);
        let written = Instant::now();
        let term = Term { leader: self.leader.clone(), beat: 0, over: false };
        if !self.storage.create(&object(next), encode(&term)?).await? {
            return Ok(None);
        }
        // Nobody looks at terms before the last. This one has begun, whether or not they can be deleted: whoever
        // leads next tries again.
        old.retain(|old| old + 1 < next);
        for old in old {
            if let Err(error) = self.storage.delete(&object(old)).await {
                tracing::warn!(term = old, %error, "a term of long ago is not deleted");
                break;
            }
        }
        let (storage, length) = (self.storage.clone(), self.length);
        Ok(Some(Lease { storage, number: next, term, length, written }))
    }
}

impl Lease {
    /// The number of the term.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How long to wait before it is renewed.
    pub fn pause(&self) -> Duration {
        self.length / BEATS
    }

    /// How long nobody else can begin another term.
    pub fn left(&self) -> Duration {
        self.length.saturating_sub(self.written.elapsed())
    }

    /// Whether nobody else can have begun another term yet.
    pub fn is_valid(&self) -> bool {
        !self.left().is_zero()
    }

    /// Goes on leading; `false` if another process leads, or may.
    pub async fn renew(&mut self) -> Result<bool> {
        let written = Instant::now();
        if self.storage.exists(&object(self.number + 1)).await? {
            return Ok(false);
        }
        self.term.beat += 1;
        self.storage.put(&object(self.number), encode(&self.term)?).await?;
        // It counts only if it was there before others could have given up on it.
        if !self.is_valid() {
            return Ok(false);
        }
        self.written = written;
        Ok(true)
    }

    /// Gives the term up, so that another process need not wait.
    pub async fn give_up(mut self) -> Result<()> {
        if self.is_valid() {
            self.term.over = true;
            self.storage.put(&object(self.number), encode(&self.term)?).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Stores;
    use url::Url;

    fn warehouse(folder: &tempfile::TempDir) -> Warehouse {
        let url = Url::from_file_path(folder.path()).unwrap();
        Warehouse::open(&url, &Stores::default()).unwrap()
    }

    /// Lets a candidate's clock go forward.
    fn wait(candidate: &mut Candidate, time: Duration) {
        let (_, _, since) = candidate.seen.as_mut().unwrap();
        *since = since.checked_sub(time).unwrap();
    }

    #[tokio::test]
    async fn one_leads_and_another_follows_when_it_is_silent() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = warehouse(&folder);
        let length = Duration::from_secs(60);
        let mut one = Candidate::new(&warehouse, "a".to_string(), length);
        let mut other = Candidate::new(&warehouse, "b".to_string(), length);
        assert_eq!(leader(&warehouse).await.unwrap(), None);
        let mut first = one.attempt().await.unwrap().unwrap();
        assert_eq!(first.number(), 1);
        assert!(other.attempt().await.unwrap().is_none());
        wait(&mut other, Duration::from_secs(50));
        assert!(first.renew().await.unwrap());
        // It was heard of meanwhile, so the wait begins again.
        assert!(other.attempt().await.unwrap().is_none());
        wait(&mut other, Duration::from_secs(50));
        assert!(other.attempt().await.unwrap().is_none());
        wait(&mut other, Duration::from_secs(10));
        let mut second = other.attempt().await.unwrap().unwrap();
        assert_eq!(second.number(), 2);
        assert_eq!(leader(&warehouse).await.unwrap().unwrap().address, "b");
        // The first finds out, and so does whoever comes later.
        assert!(!first.renew().await.unwrap());
        assert!(one.attempt().await.unwrap().is_none());
        assert!(second.renew().await.unwrap());
    }

    #[tokio::test]
    async fn a_term_that_is_given_up_is_followed_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = warehouse(&folder);
        let length = Duration::from_secs(60);
        let mut one = Candidate::new(&warehouse, "a".to_string(), length);
        let mut other = Candidate::new(&warehouse, "b".to_string(), length);
        let first = one.attempt().await.unwrap().unwrap();
        assert!(other.attempt().await.unwrap().is_none());
        first.give_up().await.unwrap();
        assert_eq!(leader(&warehouse).await.unwrap(), None);
        assert_eq!(other.attempt().await.unwrap().unwrap().number(), 2);
    }

    #[tokio::test]
    async fn terms_that_nobody_looks_at_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = warehouse(&folder);
        let storage = warehouse.storage().folder(FOLDER);
        let leader = Leader { id: "x".to_string(), address: "a".to_string() };
        let term = encode(&Term { leader, beat: 0, over: true }).unwrap();
        // The leader of the last but one had deleted none.
        for number in [1, 2, 4, 5] {
            storage.put(&object(number), term.clone()).await.unwrap();
        }
        let mut one = Candidate::new(&warehouse, "a".to_string(), Duration::from_secs(60));
        assert_eq!(one.attempt().await.unwrap().unwrap().number(), 6);
        let mut left = terms(&storage).await.unwrap();
        left.sort_unstable();
        assert_eq!(left, [5, 6]);
    }

    #[tokio::test]
    async fn of_many_that_begin_a_term_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = warehouse(&folder);
        let begin = (0..20).map(|at| {
            let warehouse = warehouse.clone();
            tokio::spawn(async move {
                let length = Duration::from_secs(60);
                let mut candidate = Candidate::new(&warehouse, at.to_string(), length);
                candidate.attempt().await.unwrap().is_some()
            })
        });
        let begun = futures::future::join_all(begin).await;
        assert_eq!(begun.into_iter().filter(|begun| *begun.as_ref().unwrap()).count(), 1);
    }

    /// A leader that has not come to write for too long does not lead, whether or not somebody else does.
    #[tokio::test]
    async fn a_lease_that_was_not_renewed_in_time_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = warehouse(&folder);
        let mut one = Candidate::new(&warehouse, "a".to_string(), Duration::from_secs(60));
        let mut lease = one.attempt().await.unwrap().unwrap();
        assert!(lease.is_valid());
        lease.written = lease.written.checked_sub(Duration::from_secs(61)).unwrap();
        assert!(!lease.is_valid());
        assert!(!lease.renew().await.unwrap());
    }
}
