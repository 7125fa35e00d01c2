//! What a run would do: which steps have to be executed, and which would make again what is published.
//!
//! A step has a fingerprint: of its text, and of what it reads, which is a published version, a file with its size and
//! date, or the fingerprint of the step that makes it. A step whose fingerprint was the same in the last published run
//! is not executed as long as what that run has made is what everybody reads.

mod changes;
mod decide;
mod identity;

use super::Pipeline;
use crate::Result;
use crate::external::ExternalTable;
use crate::journal::{self, Planned, RunState};
use crate::session::Session;
use crate::statement::{CreateTable, Located, Statement};
use decide::{decide, origin};
use identity::{Names, Volatile, published_bytes};
use nightshift_catalog::registry::Registry;
use std::collections::{BTreeMap, BTreeSet};

/// Why a step is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Everything is to be executed.
    Asked,
    /// There is no published run of the pipeline to compare with, or none that had this step.
    New,
    /// Its text is another, or something that it reads.
    Changed,
    /// What it has made is not what everybody reads: somebody has changed it since.
    Replaced,
    /// A step is executed that makes what it reads, or what it changes.
    After(String),
    /// What it returns depends on more than what it reads.
    Volatile,
    /// It does something besides making a table or model.
    Always,
    /// It is a check that only warns, and has found wrong rows.
    Warns,
}

impl Why {
    /// In words.
    pub fn text(&self) -> String {
        match self {
            Why::Asked => "asked for".to_string(),
            Why::New => "new".to_string(),
            Why::Changed => "text or inputs have changed".to_string(),
            Why::Replaced => "somebody has changed what it made".to_string(),
            Why::After(name) => format!("{name} is made again"),
            Why::Volatile => "depends on more than its inputs".to_string(),
            Why::Always => "always".to_string(),
            Why::Warns => "has found wrong rows".to_string(),
        }
    }
}

/// A step, and what becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedStep {
    /// The step. It says which run has made what it would make again, if it is not executed.
    pub step: Planned,
    /// Why it is executed; `None` if it is not.
    pub why: Option<Why>,
    /// What it reads.
    pub reads: Vec<String>,
    /// Bytes of what it reads, as far as that is there. What steps before it make counts after [`Pipeline::estimate`].
    pub bytes: u64,
}

/// What is known of a step while the plan is made.
struct Part<'a> {
    statement: &'a Located,
    check: bool,
    /// What it makes or changes.
    object: Option<String>,
    /// The table that it makes of bad records.
    quarantine: Option<String>,
    reads: BTreeSet<String>,
    fingerprint: Option<String>,
    bytes: u64,
}

impl Pipeline {
    /// What a run would do now. `all` says that it is to execute everything.
    /// `only` names the steps that are executed, if not all are: `x.a`, `x.a+` with all that follows, `+x.a` with all
    /// that it needs.
    pub async fn plan(
        &self,
        session: &Session,
        all: bool,
        only: &[String],
    ) -> Result<Vec<PlannedStep>> {
        let left_out = self.left_out(only)?;
        let warehouse = session.warehouse();
        let registry = warehouse.registry().await?;
        let last = journal::last_published(warehouse, &self.name()).await?;
        let before = self.made_before(last.as_ref(), &left_out)?;
        let parts = match self.parts(session, &registry, &before).await {
            Ok(parts) => parts,
            Err(error) if all => {
                // The steps themselves will say what is wrong.
                tracing::debug!(%error, "what steps read can't be identified");
                return self.all_steps(&left_out);
            }
            Err(error) => return Err(error),
        };
        let whys = decide(&parts, last.as_ref(), &registry, all, &left_out);
        let planned = self.planned()?.into_iter().zip(parts).zip(whys).enumerate();
        Ok(planned
            .map(|(at, ((step, part), why))| {
                let made_by =
                    || last.as_ref().map(|last| origin(last, part.fingerprint.as_deref()));
                let unchanged = if why.is_none() { made_by().flatten() } else { None };
                let fingerprint = part.fingerprint;
                let left_out = left_out.contains(&at);
                PlannedStep {
                    step: Planned { fingerprint, unchanged, left_out, ..step },
                    why,
                    reads: part.reads.into_iter().collect(),
                    bytes: part.bytes,
                }
            })
            .collect())
    }

    /// Counts for each step the bytes that it reads of what steps before it make, as that is now. It is an estimate,
    /// for they may make something else of it, and costs requests that a run doesn't need.
    ///
    /// # Errors
    /// If the registry can't be read.
    pub async fn estimate(&self, session: &Session, steps: &mut [PlannedStep]) -> Result<()> {
        let warehouse = session.warehouse();
        let registry = warehouse.registry().await?;
        // What the steps so far make, and how large it is.
        let mut made: BTreeMap<String, u64> = BTreeMap::new();
        for ((statement, check), step) in self.statements().zip(steps) {
            let read: u64 = step.reads.iter().filter_map(|name| made.get(name)).sum();
            step.bytes += read;
            if check.is_some() {
                continue;
            }
            if let Some(name) = statement.object() {
                let bytes = match &statement.statement {
                    // Whoever reads them reads what is behind them.
                    Statement::CreateView(_) | Statement::CreateExternalTable(_) => step.bytes,
                    _ => published_bytes(warehouse, &registry, &name).await,
                };
                made.insert(name, bytes);
            }
            if let Some(name) = statement.quarantine() {
                let bytes = published_bytes(warehouse, &registry, &name).await;
                made.insert(name, bytes);
            }
        }
        Ok(())
    }

    /// All steps, to be executed whatever they read.
    fn all_steps(&self, left_out: &BTreeSet<usize>) -> Result<Vec<PlannedStep>> {
        let planned = self.planned()?.into_iter().enumerate();
        Ok(planned
            .map(|(at, step)| {
                let left_out = left_out.contains(&at);
                let why = (!left_out).then_some(Why::Asked);
                let step = Planned { left_out, ..step };
                PlannedStep { step, why, reads: Vec::new(), bytes: 0 }
            })
            .collect())
    }

    /// The fingerprints of steps that are left out: those that they had when they were executed last.
    fn made_before(
        &self,
        last: Option<&RunState>,
        left_out: &BTreeSet<usize>,
    ) -> Result<BTreeMap<usize, Option<String>>> {
        let steps = self.planned()?;
        let mut before = BTreeMap::new();
        for at in left_out {
            let is_like = |other: &&Planned| {
                other.name == steps[*at].name && other.action == steps[*at].action
            };
            let place = steps[..*at].iter().filter(is_like).count();
            let last = last.map(|last| last.begun.steps.as_slice()).unwrap_or_default();
            let same = last.iter().filter(is_like).nth(place);
            before.insert(*at, same.and_then(|same| same.fingerprint.clone()));
        }
        Ok(before)
    }

    /// The fingerprints of all steps over what is published in a registry; `before` has those of steps that are left
    /// out.
    pub(super) async fn fingerprints(
        &self,
        session: &Session,
        registry: &Registry,
        before: &BTreeMap<usize, Option<String>>,
    ) -> Result<Vec<Option<String>>> {
        let parts = self.parts(session, registry, before).await?;
        Ok(parts.into_iter().map(|part| part.fingerprint).collect())
    }

    async fn parts(
        &self,
        session: &Session,
        registry: &Registry,
        before: &BTreeMap<usize, Option<String>>,
    ) -> Result<Vec<Part<'_>>> {
        let volatile = Volatile::of(session);
        let mut parts: Vec<Part<'_>> = Vec::new();
        for (at, (statement, check)) in self.statements().enumerate() {
            let object = check.map_or_else(|| statement.object(), |_| None);
            let mut reads = statement.reads()?.created_names();
            let changed = statement.changes();
            let mut hash = blake3::Hasher::new();
            hash.update(statement.text.as_bytes());
            if let Statement::CreateTable(CreateTable { slice: Some(slice), .. }) =
                &statement.statement
            {
                hash.update(
                    format!("\n{} {} {}", slice.column, slice.first, slice.last).as_bytes(),
                );
            }
            if check.is_some() && self.only_warns(statement) {
                hash.update(b"\nwarns");
            }
            let mut known = !volatile.is_in(&statement.text);
            let mut bytes = 0;
            let mut within = BTreeSet::new();
            for name in reads.iter().chain(&changed) {
                let names = Names { warehouse: session.warehouse(), registry, volatile: &volatile };
                let found = names.identify(name, &parts, 0).await?;
                known &= found.identity.is_some();
                hash.update(format!("\n{name} {}", found.identity.unwrap_or_default()).as_bytes());
                bytes += found.bytes;
                within.extend(found.reads);
            }
            reads.extend(within);
            if let Statement::CreateExternalTable(table) = &statement.statement {
                let folder = self.folder().to_path_buf();
                let files = ExternalTable::identity(session, table, Some(&folder)).await?;
                hash.update(files.text.as_bytes());
                bytes += files.bytes;
            }
            reads.extend(changed);
            let fingerprint = match before.get(&at) {
                Some(before) => before.clone(),
                None => known.then(|| hash.finalize().to_hex()[..32].to_string()),
            };
            let (check, quarantine) = (check.is_some(), statement.quarantine());
            parts.push(Part { statement, check, object, quarantine, reads, fingerprint, bytes });
        }
        Ok(parts)
    }
}
