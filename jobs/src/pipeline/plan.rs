//! What a run would do: which steps have to be executed, and which would make again what is published.
//!
//! A step has a fingerprint: of its text, and of what it reads, which is a published version, a file with its size and
//! date, or the fingerprint of the step that makes it. A step whose fingerprint was the same in the last published run
//! is not executed as long as what that run has made is what everybody reads.

use super::Pipeline;
use crate::Result;
use crate::external::ExternalTable;
use crate::introspection::sql_type;
use crate::journal::{self, Planned, RunState};
use crate::progress::Silent;
use crate::run::Rehearsal;
use crate::session::Session;
use crate::statement::{Located, References, Statement, parse};
use crate::training::{model_spec, table_names};
use arrow::datatypes::Schema;
use datafusion::logical_expr::Volatility;
use nightshift_catalog::registry::{Details, Kind, Registry};
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
    /// Bytes of what it reads, as far as that is there.
    pub bytes: u64,
}

/// What is known of a step while the plan is made.
struct Part<'a> {
    statement: &'a Located,
    check: bool,
    /// What it makes or changes.
    object: Option<String>,
    reads: BTreeSet<String>,
    fingerprint: Option<String>,
    bytes: u64,
}

impl Pipeline {
    /// What a run would do now. `all` says that it is to execute everything.
    pub async fn plan(&self, session: &Session, all: bool) -> Result<Vec<PlannedStep>> {
        let warehouse = session.warehouse();
        let registry = warehouse.registry().await?;
        if all && let Err(error) = self.parts(session, &registry).await {
            // The steps themselves will say what is wrong.
            tracing::debug!(%error, "what steps read can't be identified");
            return self.all_steps();
        }
        let last = journal::last_published(warehouse, &self.name()).await?;
        let parts = self.parts(session, &registry).await?;
        let whys = decide(&parts, last.as_ref(), &registry, all);
        let planned = self.planned()?.into_iter().zip(parts).zip(whys);
        Ok(planned
            .map(|((step, part), why)| {
                let made_by =
                    || last.as_ref().map(|last| origin(last, part.fingerprint.as_deref()));
                let unchanged = if why.is_none() { made_by().flatten() } else { None };
                let fingerprint = part.fingerprint;
                PlannedStep {
                    step: Planned { fingerprint, unchanged, ..step },
                    why,
                    reads: part.reads.into_iter().collect(),
                    bytes: part.bytes,
                }
            })
            .collect())
    }

    /// All steps, to be executed whatever they read.
    fn all_steps(&self) -> Result<Vec<PlannedStep>> {
        let planned = self.planned()?.into_iter();
        Ok(planned
            .map(|step| {
                let (why, reads) = (Some(Why::Asked), Vec::new());
                PlannedStep { step, why, reads, bytes: 0 }
            })
            .collect())
    }

    async fn parts(&self, session: &Session, registry: &Registry) -> Result<Vec<Part<'_>>> {
        let volatile = Volatile::of(session);
        let mut parts: Vec<Part<'_>> = Vec::new();
        for (statement, check) in self.statements() {
            let object = check.map_or_else(|| statement.object(), |_| None);
            let mut reads = statement.reads()?.created_names();
            let changed = statement.changes();
            let mut hash = blake3::Hasher::new();
            hash.update(statement.text.as_bytes());
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
            let fingerprint = known.then(|| hash.finalize().to_hex()[..32].to_string());
            let check = check.is_some();
            parts.push(Part { statement, check, object, reads, fingerprint, bytes });
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
) -> Vec<Option<Why>> {
    let mut whys: Vec<Option<Why>> = parts.iter().map(|part| alone(part, last, all)).collect();
    // What is made in several steps is made again in all of them, or in none.
    let mut chains: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, part) in parts.iter().enumerate() {
        if let Some(object) = &part.object {
            chains.entry(object).or_default().push(at);
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
                (false, true) if is_current(parts, chain, last, registry) => continue,
                (false, true) => Why::Replaced,
            };
            for at in chain {
                whys[*at].get_or_insert(why.clone());
            }
        }
        for at in 0..parts.len() {
            let made = |name: &&String| {
                chains.get(name.as_str()).is_some_and(|chain| {
                    chain.iter().any(|maker| *maker < at && whys[*maker].is_some())
                })
            };
            let in_place = |name: &&String| {
                chains.get(name.as_str()).is_some_and(|chain| {
                    let first = &parts[chain[0]].statement.statement;
                    matches!(first, Statement::CreateExternalTable(_))
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
    // Files are opened for those that read them.
    for at in 0..parts.len() {
        let Statement::CreateExternalTable(_) = parts[at].statement.statement else { continue };
        let object = parts[at].object.as_ref();
        let read = |(other, part): (usize, &Part<'_>)| {
            whys[other].is_some() && part.reads.iter().any(|name| Some(name) == object)
        };
        whys[at] = parts.iter().enumerate().any(read).then_some(Why::Always);
    }
    whys
}

/// Why a step is executed, whatever becomes of others.
fn alone(part: &Part<'_>, last: Option<&RunState>, all: bool) -> Option<Why> {
    if all {
        return Some(Why::Asked);
    }
    match &part.statement.statement {
        Statement::CreateExternalTable(_) => return None,
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
        return None;
    }
    let had = |step: &Planned| match part.check {
        true => step.action == "CHECK" && step.file.ends_with(file_name(&part.statement.file)),
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

/// Whether what the steps of a chain have made is what everybody reads.
fn is_current(
    parts: &[Part<'_>],
    chain: &[usize],
    last: Option<&RunState>,
    registry: &Registry,
) -> bool {
    let first = &parts[chain[0]];
    let kind = match &first.statement.statement {
        Statement::CreateTable(_) => Kind::Table,
        Statement::CreateModel(_) => Kind::Model,
        Statement::CreateView(_) => Kind::View,
        _ => return true,
    };
    let made_by = last.and_then(|last| origin(last, first.fingerprint.as_deref()));
    let entry = first.object.as_ref().and_then(|name| registry.current(kind, name));
    // A statement that is there no more has left its traces.
    let before = last.map(|last| {
        let steps = last.begun.steps.iter();
        let same = steps.filter(|s| s.action != "CHECK" && Some(&s.name) == first.object.as_ref());
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
        let maker = parts.iter().rev().find(|part| part.object.as_deref() == Some(name));
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
        let folder = name.replacen('.', "/", 1);
        let mut tables: Vec<_> = entry
            .tables
            .iter()
            .map(|(table, version)| (format!("{folder}/{table}"), *version))
            .collect();
        if entry.kind == Kind::Table {
            tables.push((folder, version));
        }
        for (folder, version) in tables {
            found.bytes += self.warehouse.snapshot(&folder, version).await?.contents.bytes();
        }
        Ok(found)
    }
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
        _ => statement.object().into_iter().collect(),
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
