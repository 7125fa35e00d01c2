//! What a leader deletes, and puts into archives.

use super::Leading;
use chrono::{DateTime, TimeDelta, Utc};
use nightshift_jobs::pipeline::{self, AllDeployed};
use nightshift_jobs::{Result, garbage, journal};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The time between two searches for runs of long ago.
const BETWEEN_TIDYING: Duration = Duration::from_secs(600);

/// The time between two deletions of what nobody needs any more.
const BETWEEN_VACUUMS: Duration = Duration::from_secs(24 * 3600);

/// The time to the first of them: schedulers that are started anew every day come to it, and leaders that follow each
/// other don't.
const FIRST_VACUUM: Duration = Duration::from_secs(3600);

/// How long ago runs must be over to be of long ago.
const KEPT: TimeDelta = TimeDelta::hours(1);

/// When it is time to tidy up.
pub(super) struct Turns {
    /// When runs of long ago were archived.
    tidied: Option<Instant>,
    /// When what nobody needs any more is deleted next.
    vacuum_at: Instant,
}

impl Default for Turns {
    fn default() -> Self {
        Self { tidied: None, vacuum_at: Instant::now() + FIRST_VACUUM }
    }
}

/// What a part of tidying up has come to: what is wrong with one holds up no others, but for a store that may do it
/// later.
fn part<T>(name: &str, done: Result<T>) -> Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.can_pass() => Err(error),
        Err(error) => {
            tracing::error!(part = name, %error, "what is left could not be tidied up");
            Ok(None)
        }
    }
}

impl Leading {
    /// When it is time, deletes what runs have left, puts runs of long ago into archives, and once a day deletes what
    /// nobody needs.
    pub(super) async fn tidy(&mut self, deployed: &AllDeployed) -> Result<()> {
        if self.turns.tidied.is_some_and(|tidied| tidied.elapsed() < BETWEEN_TIDYING) {
            return Ok(());
        }
        self.turns.tidied = Some(Instant::now());
        let (warehouse, now) = (self.warehouse().clone(), Utc::now());
        let killed = garbage::cancel_killed(&warehouse, &self.runs, now).await;
        self.killed = part("runs that were killed", killed)?.unwrap_or_default();
        part("intermediate data", garbage::forget_runs(&warehouse, now).await)?;
        part("notices", self.telling.tidy().await)?;
        part("archived journals", journal::tidy(&warehouse).await)?;
        part("archives", self.archive(now - KEPT).await)?;
        if self.turns.vacuum_at <= Instant::now() {
            self.vacuum(deployed).await?;
            self.turns.vacuum_at = Instant::now() + BETWEEN_VACUUMS;
        }
        Ok(())
    }

    /// Puts runs that were over before a moment into archives.
    async fn archive(&mut self, before: DateTime<Utc>) -> Result<()> {
        loop {
            let archived = journal::archive(self.warehouse(), &self.runs, before).await?;
            if archived.is_empty() {
                return Ok(());
            }
            for id in &archived {
                self.runs.remove(id);
            }
        }
    }

    /// Deletes what nobody needs any more: files and logs of tables, texts and inputs of pipelines, what clients have
    /// sent.
    async fn vacuum(&mut self, deployed: &AllDeployed) -> Result<()> {
        let (warehouse, now) = (self.warehouse().clone(), Utc::now());
        if let Some(files) = part("files of tables", garbage::vacuum(&warehouse).await)? {
            tracing::info!(files, "files that no version needs are deleted");
        }
        if let Some(objects) = part("logs", garbage::shorten_logs(&warehouse, now).await)? {
            tracing::info!(objects, "what logs have of versions of long ago is deleted");
        }
        let unfinished = garbage::forget_unfinished(&warehouse, now).await;
        if let Some(files @ 1..) = part("parts of files", unfinished)? {
            tracing::info!(files, "parts of files that killed processes have left are deleted");
        }
        part("uploads", garbage::forget_uploads(&warehouse, now).await)?;
        let deployed: BTreeSet<_> =
            deployed.pipelines().map(|deployed| deployed.source.clone()).collect();
        // Those that can't be read are tried again: somebody may have mended them.
        self.parsed.retain(|source, read| read.is_ok() && deployed.contains(source));
        let mut sources = deployed;
        sources.extend(self.runs.values().map(|run| run.begun.source.clone()));
        let mut texts = sources.clone();
        texts.extend(self.runs.values().flat_map(|run| run.earlier.iter().cloned()));
        if let Some(of_notices) = part("texts of notices", self.telling.texts().await)? {
            texts.extend(of_notices);
            part("texts", pipeline::forget_texts(&warehouse, &texts, now).await)?;
        }
        part("inputs", pipeline::forget_inputs(&warehouse, &sources, now).await)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::SessionContext;
    use nightshift_catalog::storage::{Stores, parse_url};
    use nightshift_catalog::warehouse::{Warehouse, upload_folder};
    use nightshift_jobs::journal::{Begun, Cause, Driver, RunJournal};
    use nightshift_jobs::session::Session;
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::time::SystemTime;

    #[tokio::test]
    async fn what_is_wrong_with_one_part_of_tidying_up_holds_up_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let url = parse_url(&folder.path().to_string_lossy()).unwrap();
        let warehouse = Warehouse::open(&url, &Stores::default()).unwrap();
        let storage = warehouse.storage();
        // A run whose text is gone, and data of which nobody can tell which run it is of.
        let begun = Begun {
            pipeline: "p".to_string(),
            source: "gone".to_string(),
            cause: Cause::Command { who: "ann".to_string() },
            parameters: BTreeMap::new(),
            publication: 0,
            steps: Vec::new(),
            driver: Driver::this(false),
        };
        RunJournal::begin(&warehouse, "0001", begun).await.unwrap();
        warehouse.open_run("0002").await.unwrap();
        storage.put("_nightshift/archive/runs/0003.briefs.json", "{").await.unwrap();
        // The id is one of June 2023.
        let upload = upload_folder("01890a5dac967000b000000000000000");
        storage.put(&format!("{upload}/part-00000.parquet"), "x").await.unwrap();
        // Two writers were killed, one of them just now.
        let part = |name: &str| folder.path().join(name);
        for name in ["part-1.parquet#1", "part-2.parquet#1"] {
            std::fs::write(part(name), "x").unwrap();
        }
        let long_ago = SystemTime::now() - Duration::from_secs(25 * 3600);
        let old = File::options().write(true).open(part("part-1.parquet#1")).unwrap();
        old.set_modified(long_ago).unwrap();

        let session = Session::new(SessionContext::new().state(), warehouse.clone(), Vec::new());
        let mut leading = Leading::new(session, false);
        leading.refresh_runs().await.unwrap();
        leading.turns.vacuum_at = Instant::now();
        let deployed = AllDeployed::read(&warehouse).await.unwrap();
        leading.tidy(&deployed).await.unwrap();
        assert!(warehouse.uploads().await.unwrap().is_empty());
        assert!(!part("part-1.parquet#1").exists() && part("part-2.parquet#1").exists());
        assert!(leading.turns.vacuum_at > Instant::now());

        assert!(garbage::forget_runs(&warehouse, Utc::now()).await.is_err());
        assert!(journal::tidy(&warehouse).await.is_err());
        let sources = BTreeSet::from(["gone".to_string()]);
        assert!(pipeline::forget_inputs(&warehouse, &sources, Utc::now()).await.is_err());
    }
}
