//! Which runs of deployed pipelines are due.
//!
//! The id of such a run follows from its pipeline and from what it is due for, so that it is begun once, whoever begins
//! it. How far a pipeline's schedule has been followed is remembered only so that nobody has to look further back.

use super::Deployed;
use super::settings::{Schedule, Trigger};
use crate::Result;
use crate::journal::{Cause, due_id};
use chrono::{DateTime, Utc};
use nightshift_catalog::registry::{Kind, Registry};
use nightshift_catalog::warehouse::Warehouse;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The object that says how far schedules have been followed.
const POSITIONS: &str = "_nightshift/positions.json";

/// A run that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// The id that it has.
    pub id: String,
    /// Why.
    pub cause: Cause,
    /// What it is due for: nothing before it is due any more when it has been begun.
    pub at: DateTime<Utc>,
}

/// What has happened that pipelines wait for.
pub struct Happened<'a> {
    /// What is published.
    pub registry: &'a Registry,
    /// The last published run of each pipeline that others follow, and when it was published.
    pub runs: &'a BTreeMap<String, (String, DateTime<Utc>)>,
}

/// The runs of a pipeline that are due now, the oldest first; `since` is what the last one was due for.
pub fn due(
    deployed: &Deployed,
    schedule: &Schedule,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
    happened: &Happened<'_>,
) -> Vec<Due> {
    let name = &deployed.name;
    let since = since.max(deployed.since);
    match &schedule.trigger {
        Trigger::Cron(cron) => {
            let times = cron.due(since, now, schedule.catch_up).into_iter();
            times.map(|at| scheduled(name, at)).collect()
        }
        Trigger::After(other) => {
            let last = happened.runs.get(other).filter(|(_, at)| *at > since);
            let due = last.map(|(run, at)| Due {
                id: due_id(name, run, *at),
                cause: Cause::After { run: run.clone() },
                at: *at,
            });
            due.into_iter().collect()
        }
        Trigger::When(table) => {
            let table = &table.to_string();
            let kinds = [Kind::Table, Kind::Model].into_iter();
            let entry = kinds.filter_map(|kind| happened.registry.current(kind, table)).next();
            let published = entry.and_then(|entry| {
                let at = DateTime::from_timestamp_micros(entry.published_at)?;
                Some((at, entry.version))
            });
            let due = published.filter(|(at, _)| *at > since).map(|(at, version)| Due {
                id: due_id(name, &format!("{table} {version}"), at),
                cause: Cause::When { table: table.clone(), version },
                at,
            });
            due.into_iter().collect()
        }
    }
}

/// The run of a pipeline that is due at a time.
fn scheduled(name: &str, at: DateTime<Utc>) -> Due {
    Due { id: due_id(name, &at.to_rfc3339(), at), cause: Cause::Schedule { due: at }, at }
}

/// When a pipeline is due next, if a clock says so and nobody has paused it.
pub fn next(
    deployed: &Deployed,
    schedule: Option<&Schedule>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    match &schedule?.trigger {
        Trigger::Cron(cron) if deployed.paused_by.is_none() => cron.after(now),
        _ => None,
    }
}

/// How far the schedule of each pipeline has been followed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Positions(BTreeMap<String, DateTime<Utc>>);

impl Positions {
    /// What was remembered last. What can't be read is as good as nothing: runs that were begun are not begun again.
    pub async fn read(warehouse: &Warehouse) -> Result<Self> {
        match warehouse.storage().get(POSITIONS).await {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "{POSITIONS} is damaged: schedules are followed from when they were deployed");
                Self::default()
            })),
            Err(error) if error.is_missing() => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// What the last run of a pipeline was due for.
    pub fn of(&self, pipeline: &str) -> DateTime<Utc> {
        self.0.get(pipeline).copied().unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// Goes forward to what a run was due for.
    pub fn go_to(&mut self, pipeline: &str, at: DateTime<Utc>) {
        let position = self.0.entry(pipeline.to_string()).or_default();
        *position = (*position).max(at);
    }

    /// Remembers it.
    pub async fn save(&self, warehouse: &Warehouse) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|error| crate::JobError::Damaged {
            what: POSITIONS.to_string(),
            reason: error.to_string(),
        })?;
        Ok(warehouse.storage().put(POSITIONS, text).await?)
    }
}
