//! What a run would do: which steps have to be executed, and which would make again what is published.
//!
//! A step has a fingerprint: of its text, and of what it reads, which is a published version, a file with its size and
//! date, or the fingerprint of the step that makes it. A step whose fingerprint was the same in the last published run
//! is not executed as long as what that run has made is what everybody reads.

use super::Pipeline;
use super::select::CHECK;
use crate::Result;
use crate::external::ExternalTable;
use crate::introspection::sql_type;
use crate::journal::{self, Planned, RunState, StepState};
use crate::progress::Silent;
use crate::run::Rehearsal;
use crate::session::Session;
use crate::statement::{CreateTable, Located, References, Statement, parse};
use crate::training::{model_spec, table_names};
use arrow::datatypes::Schema;
use datafusion::logical_expr::Volatility;
use nightshift_catalog::registry::{Details, Entry, Kind, Registry};
use nightshift_catalog::warehouse::Warehouse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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

/// The run that has made what a step of a fingerprint makes, if the last run had such a step.
fn origin(last: &RunState, fingerprint: Option<&str>) -> Option<String> {
    let fingerprint = fingerprint?;
    let step = last.begun.steps.iter().find(|s| s.fingerprint.as_deref() == Some(fingerprint))?;
    Some(step.unchanged.clone().unwrap_or_else(|| last.id.clone()))
}

/// For each step why it is executed, or nothing if it isn't.
fn decide(
    parts: &[Part<'_>],
    last: Option<&RunState>,
    registry: &Registry,
    all: bool,
    left_out: &BTreeSet<usize>,
) -> Vec<Option<Why>> {
    let mut whys: Vec<Option<Why>> = parts.iter().map(|part| alone(part, last, all)).collect();
    // What is made in several steps is made again in all of them, or in none.
    let mut chains: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, part) in parts.iter().enumerate() {
        for name in part.object.iter().chain(&part.quarantine) {
            chains.entry(name).or_default().push(at);
        }
    }
    loop {
        let before = whys.clone();
        for (name, chain) in &chains {
            let again = chain.iter().any(|at| whys[*at].is_some());
            let from_nothing = replaces(&parts[chain[0]].statement.statement);
            let why = match (again, from_nothing) {
                (true, _) => Why::After(name.to_string()),
                // What was there before it is changed once more by each run.
                (false, false) => Why::Changed,
                (false, true) if is_current(name, parts, chain, last, registry) => continue,
                (false, true) => Why::Replaced,
            };
            for at in chain {
                whys[*at].get_or_insert(why.clone());
            }
        }
        for at in 0..parts.len() {
            // Whoever opens files makes the table of bad records again.
            if whys[at].is_none() && parts[at].quarantine.is_some() && is_read(parts, &whys, at) {
                whys[at] = Some(Why::Always);
            }
            let made = |name: &&String| {
                chains.get(name.as_str()).is_some_and(|chain| {
                    chain.iter().any(|maker| *maker < at && whys[*maker].is_some())
                })
            };
            let in_place = |name: &&String| {
                chains.get(name.as_str()).is_some_and(|chain| {
                    let first = &parts[chain[0]];
                    matches!(first.statement.statement, Statement::CreateExternalTable(_))
                        && first.object.as_ref() == Some(*name)
                })
            };
            if whys[at].is_none() {
                let again = parts[at].reads.iter().find(|name| made(name) && !in_place(name));
                whys[at] = again.map(|name| Why::After(name.clone()));
            }
        }
        if whys == before {
            break;
        }
    }
    for at in left_out {
        whys[*at] = None;
    }
    // Files are opened for those that read them, and for the table of bad records.
    for at in 0..parts.len() {
        let Statement::CreateExternalTable(_) = parts[at].statement.statement else { continue };
        if is_read(parts, &whys, at) {
            whys[at] = Some(Why::Always);
        } else if parts[at].quarantine.is_none() {
            whys[at] = None;
        }
    }
    whys
}

/// Whether a step that is executed reads what another one makes.
fn is_read(parts: &[Part<'_>], whys: &[Option<Why>], at: usize) -> bool {
    let object = parts[at].object.as_ref();
    let reads = |(part, why): (&Part<'_>, &Option<Why>)| {
        why.is_some() && part.reads.iter().any(|name| Some(name) == object)
    };
    parts.iter().zip(whys).any(reads)
}

/// Why a step is executed, whatever becomes of others.
fn alone(part: &Part<'_>, last: Option<&RunState>, all: bool) -> Option<Why> {
    if all {
        return Some(Why::Asked);
    }
    match &part.statement.statement {
        Statement::CreateExternalTable(_) if part.quarantine.is_none() => return None,
        Statement::CreateSchema { .. }
        | Statement::Copy(_)
        | Statement::Vacuum { .. }
        | Statement::Drop(_)
        | Statement::Restore { .. }
        | Statement::SetModelVersion { .. } => return Some(Why::Always),
        _ => {}
    }
    let Some(fingerprint) = &part.fingerprint else { return Some(Why::Volatile) };
    let Some(last) = last else { return Some(Why::New) };
    if origin(last, Some(fingerprint)).is_some() {
        let is_same = |step: &&StepState| step.planned.fingerprint.as_ref() == Some(fingerprint);
        let warns = last.steps.iter().find(is_same).is_some_and(|step| step.wrong.is_some());
        return warns.then_some(Why::Warns);
    }
    let had = |step: &Planned| match part.check {
        true => step.action == CHECK && step.file.ends_with(file_name(&part.statement.file)),
        false => Some(&step.name) == part.object.as_ref(),
    };
    Some(if last.begun.steps.iter().any(had) { Why::Changed } else { Why::New })
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether a statement makes something from what it reads alone.
fn replaces(statement: &Statement) -> bool {
    match statement {
        Statement::CreateTable(table) => table.or_replace && table.query.is_some(),
        Statement::CreateModel(model) => model.or_replace,
        Statement::CreateView(view) => view.or_replace,
        Statement::CreateExternalTable(_) => true,
        _ => false,
    }
}

/// Whether what the steps of a chain have made under its name is what everybody reads.
fn is_current(
    name: &str,
    parts: &[Part<'_>],
    chain: &[usize],
    last: Option<&RunState>,
    registry: &Registry,
) -> bool {
    let first = &parts[chain[0]];
    let kind = match &first.statement.statement {
        Statement::CreateTable(_) => Kind::Table,
        Statement::CreateExternalTable(_) if first.quarantine.as_deref() == Some(name) => {
            Kind::Table
        }
        Statement::CreateModel(_) => Kind::Model,
        Statement::CreateView(_) => Kind::View,
        _ => return true,
    };
    let made_by = last.and_then(|last| origin(last, first.fingerprint.as_deref()));
    let entry = registry.current(kind, name);
    // A statement that is there no more has left its traces.
    let before = last.map(|last| {
        let steps = last.begun.steps.iter().filter(|step| step.action != "CHECK");
        let same = steps.filter(|s| s.name == name || Some(&s.name) == first.object.as_ref());
        same.map(|step| step.fingerprint.as_deref()).collect::<Vec<_>>()
    });
    let now: Vec<_> = chain.iter().map(|at| parts[*at].fingerprint.as_deref()).collect();
    before == Some(now) && entry.is_some_and(|entry| made_by.as_ref() == Some(&entry.run))
}

/// What a name stands for.
#[derive(Default)]
struct Identity {
    /// A text that is another one when it stands for something else; `None` if that can't be told.
    identity: Option<String>,
    /// Bytes of what is published of it.
    bytes: u64,
    /// What it reads itself, if it is a view.
    reads: BTreeSet<String>,
}

/// Where names are looked up.
struct Names<'a> {
    warehouse: &'a Warehouse,
    registry: &'a Registry,
    volatile: &'a Volatile,
}

impl Names<'_> {
    /// What a name stands for after the steps so far.
    async fn identify(&self, name: &str, parts: &[Part<'_>], depth: usize) -> Result<Identity> {
        let makes = |part: &&Part<'_>| {
            part.object.as_deref() == Some(name) || part.quarantine.as_deref() == Some(name)
        };
        let maker = parts.iter().rev().find(makes);
        if let Some(maker) = maker {
            return Ok(Identity { identity: maker.fingerprint.clone(), ..Identity::default() });
        }
        if name.starts_with("system.") || name.starts_with("information_schema.") {
            return Ok(Identity::default());
        }
        let kinds = [Kind::Table, Kind::Model, Kind::View].into_iter();
        let Some(entry) = kinds.filter_map(|kind| self.registry.current(kind, name)).next() else {
            let identity = Some("nothing".to_string());
            return Ok(Identity { identity, ..Identity::default() });
        };
        let (kind, version, publication) = (entry.kind.as_str(), entry.version, entry.publication);
        let mut found = Identity {
            identity: Some(format!("{kind} {version} {publication}")),
            ..Identity::default()
        };
        if entry.kind == Kind::View {
            let Some(Details::View { view }) = &entry.details else { return Ok(found) };
            if depth == MOST_VIEWS || self.volatile.is_in(view) {
                return Ok(Identity::default());
            }
            for located in parse(name, view)? {
                for name in reads_of(&located)? {
                    let inner = Box::pin(self.identify(&name, parts, depth + 1)).await?;
                    found.identity = match (found.identity, inner.identity) {
                        (Some(all), Some(one)) => Some(format!("{all}\n{name} {one}")),
                        _ => None,
                    };
                    found.bytes += inner.bytes;
                    found.reads.extend(inner.reads);
                    found.reads.insert(name);
                }
            }
            return Ok(found);
        }
        found.bytes = bytes_of(self.warehouse, entry).await?;
        Ok(found)
    }
}

/// Bytes of a version of a table or model.
async fn bytes_of(warehouse: &Warehouse, entry: &Entry) -> Result<u64> {
    let folder = entry.name.replacen('.', "/", 1);
    let tables = entry.tables.iter();
    let mut tables: Vec<_> =
        tables.map(|(table, version)| (format!("{folder}/{table}"), *version)).collect();
    if entry.kind == Kind::Table {
        tables.push((folder, entry.version));
    }
    let mut bytes = 0;
    for (folder, version) in tables {
        bytes += warehouse.snapshot(&folder, version).await?.contents.bytes();
    }
    Ok(bytes)
}

/// Bytes of the table or model that is published under a name, 0 if there is none.
async fn published_bytes(warehouse: &Warehouse, registry: &Registry, name: &str) -> u64 {
    let kinds = [Kind::Table, Kind::Model].into_iter();
    let entry = kinds.filter_map(|kind| registry.current(kind, name)).next();
    let Some(entry) = entry else { return 0 };
    bytes_of(warehouse, entry).await.unwrap_or_else(|error| {
        // The run may be what makes it readable again.
        tracing::debug!(%error, table = name, "its size is not known");
        0
    })
}

/// How deeply views can be within views.
const MOST_VIEWS: usize = 16;

fn reads_of(located: &Located) -> Result<BTreeSet<String>> {
    match &located.statement {
        Statement::Query(query) => Ok(References::of(query)?.created_names()),
        _ => Ok(BTreeSet::new()),
    }
}

/// The functions whose results depend on more than their arguments.
struct Volatile(BTreeSet<String>);

impl Volatile {
    fn of(session: &Session) -> Self {
        let functions = session.state().scalar_functions().iter();
        let volatile = functions.filter(|(_, function)| {
            !matches!(function.signature().volatility, Volatility::Immutable)
        });
        let mut names: BTreeSet<String> = volatile.map(|(name, _)| name.to_lowercase()).collect();
        let keywords = ["current_date", "current_time", "current_timestamp", "localtimestamp"];
        names.extend(keywords.map(str::to_string));
        Self(names)
    }

    /// Whether one of them is named in a text. A column of the same name is one too many.
    fn is_in(&self, text: &str) -> bool {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let mut words = text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty());
        words.any(|word| self.0.contains(&word.to_lowercase()))
    }
}

impl Pipeline {
    /// Which columns of published tables would be others after the steps that are executed: a line for each, such as
    /// `features.ratings: rating is DOUBLE, was BIGINT`.
    ///
    /// # Errors
    /// What is wrong in the statements.
    pub async fn column_changes(
        &self,
        session: Session,
        steps: &[PlannedStep],
    ) -> Result<Vec<String>> {
        let mut rehearsal = Rehearsal::start(session, Arc::new(Silent)).await?;
        let mut changes = Vec::new();
        for ((statement, check), planned) in self.statements().zip(steps) {
            if check.is_some() || planned.why.is_none() {
                continue;
            }
            rehearsal.execute(statement, Some(self.folder().to_path_buf())).await?;
            for table in tables_of(statement)? {
                let (before, after) = rehearsal.schemas(&table).await?;
                let (Some(before), Some(after)) = (before, after) else { continue };
                changes.extend(differences(&table, &before, &after));
            }
        }
        Ok(changes)
    }
}

/// The tables that a statement makes or changes.
fn tables_of(statement: &Located) -> Result<Vec<String>> {
    Ok(match &statement.statement {
        Statement::CreateModel(model) => {
            let tables = table_names(&model_spec(model)?).iter();
            tables.map(|table| format!("{}.{table}", model.name)).collect()
        }
        _ => statement.object().into_iter().chain(statement.quarantine()).collect(),
    })
}

fn differences(table: &str, before: &Schema, after: &Schema) -> Vec<String> {
    let gone = before.fields().iter().filter(|field| after.field_with_name(field.name()).is_err());
    let mut found: Vec<_> =
        gone.map(|field| format!("{table}: {} is gone", field.name())).collect();
    for field in after.fields() {
        let (name, now) = (field.name(), sql_type(field.data_type()));
        match before.field_with_name(name) {
            Err(_) => found.push(format!("{table}: {name} is new, {now}")),
            Ok(old) if old.data_type() != field.data_type() => {
                found.push(format!("{table}: {name} is {now}, was {}", sql_type(old.data_type())));
            }
            Ok(_) => {}
        }
    }
    found
}
