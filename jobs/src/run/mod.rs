//! A run: statements executed together and published together, or not at all.
//!
//! What a run writes is seen by its own statements only, until [`Run::publish`] makes all of it what
//! everybody sees, in one commit. A run that fails is abandoned: its files are deleted.

use crate::change;
use crate::external::{Externals, Quarantine};
use crate::lineage::Lineage;
use crate::progress::Progress;
use crate::session::Session;
use crate::statement::{CreateModel, Located, Statement};
use crate::view::View;
use crate::{JobError, Result, training};
use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use datafusion::logical_expr::LogicalPlan;
use nightshift_catalog::delta::Contents;
use nightshift_catalog::export::ExportTarget;
use nightshift_catalog::registry::Kind;
use nightshift_catalog::warehouse::{
    Name, ReadableModel, ReadableTable, Staged, StagedTable, Warehouse, run_folder,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use uuid::Uuid;

mod columns;
mod copies;
mod drift;
mod effect;
mod files;
mod gates;
mod lineage;
mod names;
mod publication;
mod rehearsal;
mod slices;
mod tables;

pub use effect::EffectRecord;
pub use gates::Measured;
pub use rehearsal::Rehearsal;

use effect::Effect;

/// Rows of a failed check that are shown.
const SAMPLE: usize = 5;

/// Finds out more about an error of a statement that reads files in place, if there is more to know.
pub async fn explain(
    session: &Session,
    externals: &Externals,
    located: &Located,
    error: JobError,
) -> JobError {
    const SIGNS: [&str; 9] = [
        "Error while parsing value",
        "Parser error",
        "Csv error",
        "CsvError",
        "Json error",
        "JsonError",
        "Parquet",
        "Avro",
        "IO error",
    ];
    let text = error.to_string();
    if externals.is_empty() || !SIGNS.iter().any(|sign| text.contains(sign)) {
        return error;
    }
    let Ok(references) = located.reads() else { return error };
    for name in references.created_names() {
        if let Some(table) = externals.get(&name)
            && let Ok(Some(found)) = table.find_damage(session).await
        {
            return found;
        }
    }
    error
}

/// Plans a statement that returns rows in a view, without running it.
pub async fn plan(session: &Session, view: &View, located: &Located) -> Result<LogicalPlan> {
    match &located.statement {
        Statement::Query(query) => view.plan(session, query.clone()).await,
        Statement::ExplainModel(model) => training::explain(session, view, model).await,
        _ => Err(JobError::Statement("not a query".to_string())),
    }
}

/// What a statement of a run has made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The table or model.
    pub name: String,
    /// Rows written.
    pub rows: u64,
    /// Files written.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Rows that a check has found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wrong {
    /// How many.
    pub rows: usize,
    /// Some of them, as a table.
    pub sample: String,
}

/// What a statement has made.
#[derive(Debug)]
struct Made {
    name: String,
    rows: u64,
    files: u64,
    bytes: u64,
}

impl Made {
    /// Everything that a table consists of.
    fn all(name: &Name, contents: &Contents) -> Self {
        let (rows, bytes) = (contents.rows(), contents.bytes());
        Self { name: name.to_string(), rows, files: contents.files.len() as u64, bytes }
    }
}

/// The folders of tables to which a statement writes.
pub(crate) fn folders_of(statement: &Statement) -> Result<Vec<String>> {
    let table = match statement {
        Statement::CreateTable(table) => &table.name,
        Statement::Insert(insert) => &insert.table,
        Statement::Delete(delete) => &delete.table,
        Statement::Update(update) => &update.table,
        Statement::Merge(merge) => &merge.table,
        Statement::Optimize { table, .. } => table,
        Statement::CreateExternalTable(table) => match Quarantine::named(&table.options) {
            Some(name) => return Ok(vec![Warehouse::table_folder(&Name::try_from(name)?)]),
            None => return Ok(Vec::new()),
        },
        Statement::CreateModel(model) => {
            let tables = training::table_names(&training::model_spec(model)?).iter();
            let folder = |table: &&str| Warehouse::model_table_folder(&model.name, table);
            return Ok(tables.map(folder).collect());
        }
        _ => return Ok(Vec::new()),
    };
    Ok(vec![Warehouse::table_folder(table)])
}

/// A run that is under way. A clone sees what it has made so far, and nothing that it makes later.
#[derive(Clone)]
pub struct Run {
    id: String,
    operation: String,
    session: Session,
    view: View,
    staged: Staged,
    /// Tables' folders that the run has begun to write to.
    touched: BTreeSet<String>,
    /// Where it writes files for other programs.
    exports: Arc<Mutex<Vec<ExportTarget>>>,
    /// Where it has tried to.
    failed_exports: Arc<Mutex<Vec<ExportTarget>>>,
    steps: Vec<Step>,
    progress: Arc<dyn Progress>,
    /// Whether statements are only planned.
    rehearsed: bool,
    /// Whether another process may have published it already.
    published_before: bool,
    /// What trainings leave is used again under the same word only.
    training: String,
    /// Whether another process could not be followed in all that it has made: then no file is known to be too many.
    incomplete: bool,
    /// Whether it is written down, and so what its statements read and make.
    recorded: bool,
    /// Whether its statement is one by itself, of a connection that reads files in place longer than the run.
    by_itself: bool,
}

/// A statement that has been executed, and whose effect later statements don't see yet.
pub struct Executed {
    /// What it has made, if that is to be told.
    pub step: Option<Step>,
    /// What it has done, for whoever goes on with the run.
    pub record: EffectRecord,
    /// What it has read and made, if that is known and written down.
    pub lineage: Option<Lineage>,
    effect: Effect,
}

impl Run {
    /// Begins a run of one statement. `operation` says what it is, for the record; `externals` are files that it
    /// can read in place from the start.
    pub async fn start(
        session: Session,
        operation: String,
        externals: Externals,
        progress: Arc<dyn Progress>,
    ) -> Result<Self> {
        let view = View::now(&session, externals).await?;
        let run = Self::over(session, view, Self::new_id(), operation, progress);
        run.open().await?;
        Ok(Self { by_itself: true, ..run })
    }

    /// A run that is written down before it is opened.
    pub async fn prepare(
        session: Session,
        id: String,
        operation: String,
        progress: Arc<dyn Progress>,
    ) -> Result<Self> {
        session.warehouse().check_writable().await?;
        let view = View::now(&session, Externals::new()).await?;
        let run = Self::over(session, view, id, operation, progress);
        Ok(Self { recorded: true, ..run })
    }

    /// Opens the run: its tasks can write from now on.
    pub async fn open(&self) -> Result<()> {
        self.session.warehouse().open_run(&self.id).await?;
        tracing::info!(run = %self.id, operation = self.operation, "run started");
        Ok(())
    }

    /// A run that another process has begun: with what was published up to `publication`.
    /// `published_before` says whether that process may have come to publish it.
    pub async fn go_on(
        session: Session,
        id: String,
        operation: String,
        publication: u64,
        published_before: bool,
        progress: Arc<dyn Progress>,
    ) -> Result<Self> {
        let view = View::as_of(&session, publication).await?;
        let run = Self::over(session, view, id, operation, progress);
        Ok(Self { published_before, recorded: true, ..run })
    }

    /// An id for a run that is to begin.
    pub fn new_id() -> String {
        Uuid::now_v7().to_string()
    }

    fn over(
        session: Session,
        view: View,
        id: String,
        operation: String,
        progress: Arc<dyn Progress>,
    ) -> Self {
        Self {
            id,
            operation,
            session,
            view,
            staged: Staged::default(),
            touched: BTreeSet::new(),
            exports: Arc::default(),
            failed_exports: Arc::default(),
            steps: Vec::new(),
            progress,
            rehearsed: false,
            published_before: false,
            training: "0".to_string(),
            incomplete: false,
            recorded: false,
            by_itself: false,
        }
    }

    /// The run for one of its steps, whose training goes on with what was left under the same word.
    #[must_use]
    pub fn for_step(&self, training: String) -> Self {
        Self { training, ..self.clone() }
    }

    /// Lets no file be deleted when the run is at its end.
    pub fn keep_all_files(&mut self) {
        self.incomplete = true;
    }

    /// The number of the publication that the run's statements read, beside what it makes itself.
    pub fn publication(&self) -> u64 {
        self.view.registry().publication()
    }

    /// Its id; ids are in the order in which runs began.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether a name is a view that was published before the run.
    pub fn is_published_view(&self, name: &str) -> bool {
        self.view.registry().current(Kind::View, name).is_some()
    }

    /// The files that the run reads in place.
    pub fn externals(&self) -> &Externals {
        self.view.externals()
    }

    /// The folder of the run's intermediate data within the warehouse.
    fn folder(&self) -> String {
        run_folder(&self.id)
    }

    /// Executes a statement that makes or changes something. What is only read in place, and a name, is
    /// no step. `folder` is what relative locations are relative to.
    pub async fn execute(&mut self, located: &Located, folder: Option<PathBuf>) -> Result<()> {
        self.touch(located)?;
        let executed = self.attempt(located, folder).await?;
        self.accept(executed);
        Ok(())
    }

    /// Notes where a statement writes: of one that fails, files can be left.
    pub fn touch(&mut self, located: &Located) -> Result<()> {
        let folders = folders_of(&located.statement).map_err(|error| located.locate(error))?;
        self.touched.extend(folders);
        Ok(())
    }

    /// Lets what another process has made with a statement be deleted if the run fails. What it has written for other
    /// programs is at once.
    pub async fn claim(&mut self, located: &Located, folder: &Path) -> Result<()> {
        self.touch(located)?;
        match &located.statement {
            Statement::Copy(copy) => self.claim_export(copy, folder).await,
            _ => Ok(()),
        }
    }

    /// Executes a statement without letting others see what it does.
    pub async fn attempt(&self, located: &Located, folder: Option<PathBuf>) -> Result<Executed> {
        let started = Instant::now();
        let effect = match self.perform(&located.statement, folder.clone()).await {
            Ok(effect) => effect,
            // To explain it can take reading all files.
            Err(error) if self.rehearsed => return Err(located.locate(error)),
            Err(error) => {
                return Err(located
                    .locate(explain(&self.session, self.view.externals(), located, error).await));
            }
        };
        let made = effect.made.as_ref().filter(|_| !self.rehearsed);
        let step = made.map(|made| Step {
            name: made.name.clone(),
            rows: made.rows,
            files: made.files,
            bytes: made.bytes,
            seconds: started.elapsed().as_secs_f64(),
        });
        if let Some(Step { name, rows, seconds, .. }) = &step {
            tracing::info!(run = %self.id, step = name, rows, seconds, "step done");
        }
        let record = match self.rehearsed {
            true => EffectRecord::default(),
            false => EffectRecord::of(&effect)?,
        };
        let lineage = self.lineage(located, folder.as_deref(), &effect).await;
        Ok(Executed { step, record, lineage, effect })
    }

    /// Lets the run's later statements see what a statement has done.
    pub fn accept(&mut self, executed: Executed) {
        self.apply(executed.effect);
        self.steps.extend(executed.step);
    }

    /// What a statement would do. It changes nothing that others see, and can be tried again.
    async fn perform(&self, statement: &Statement, folder: Option<PathBuf>) -> Result<Effect> {
        match statement {
            Statement::Query(_) | Statement::ExplainModel(_) => {
                Err(JobError::Statement("a query makes nothing: use CREATE TABLE … AS".to_string()))
            }
            Statement::CreateSchema { name, if_not_exists } => {
                self.create_schema(name, *if_not_exists)
            }
            Statement::CreateTable(table) => self.create_table(table).await,
            Statement::CreateExternalTable(table) => {
                self.create_external(table, folder.as_deref()).await
            }
            Statement::CreateView(view) => self.create_view(view).await,
            Statement::CreateModel(model) => self.create_model(model).await,
            Statement::Drop(drop) => self.drop(drop),
            Statement::AddColumns { table, columns } => self.add_columns(table, columns).await,
            Statement::Comment { table, column, text } => {
                self.comment(table, column.as_deref(), text.as_deref()).await
            }
            Statement::SetModelVersion { model, version } => self.set_version(model, *version),
            Statement::Restore { table, moment } => self.restore_table(table, moment).await,
            Statement::Insert(insert) => {
                self.change(&insert.table, async |change| change::insert(&change, insert).await)
                    .await
            }
            Statement::Delete(delete) => {
                self.change(&delete.table, async |change| change::delete(&change, delete).await)
                    .await
            }
            Statement::Update(update) => {
                self.change(&update.table, async |change| change::update(&change, update).await)
                    .await
            }
            Statement::Merge(merge) => {
                self.change(&merge.table, async |change| change::merge(&change, merge).await).await
            }
            Statement::Optimize { table, zorder } => {
                self.change(table, async |change| change::optimize(&change, zorder).await).await
            }
            Statement::Vacuum { table, retain_hours, dry_run } => {
                self.vacuum(table.as_ref(), *retain_hours, *dry_run).await
            }
            Statement::Copy(copy) => self.copy(copy, folder.as_deref()).await,
        }
    }

    /// Runs a check: a query that returns the rows that are wrong. Of those that it finds, some are shown.
    pub async fn check(&self, located: &Located) -> Result<Option<Wrong>> {
        let collected = async {
            let plan = plan(&self.session, &self.view, located).await?;
            match self.rehearsed {
                true => self.session.analyze(plan).map(|_| Vec::new()),
                false => self.session.collect(plan).await,
            }
        };
        let batches = match collected.await {
            Ok(batches) => batches,
            Err(error) if self.rehearsed => return Err(located.locate(error)),
            Err(error) => {
                return Err(located
                    .locate(explain(&self.session, self.view.externals(), located, error).await));
            }
        };
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        if rows == 0 {
            return Ok(None);
        }
        let mut sample = Vec::new();
        let mut left = SAMPLE;
        for batch in &batches {
            let taken = batch.slice(0, left.min(batch.num_rows()));
            left -= taken.num_rows();
            sample.push(taken);
        }
        let sample = pretty_format_batches(&sample)?.to_string();
        Ok(Some(Wrong { rows, sample }))
    }

    /// A table of this run as its other statements can read it.
    async fn readable(&self, name: &str, staged: StagedTable) -> Result<ReadableTable> {
        let warehouse = self.session.warehouse();
        if self.rehearsed {
            let provider = warehouse.planned(&staged.folder, &staged.contents);
            return Ok(ReadableTable { staged, provider, list: String::new() });
        }
        let list = format!("{}/staged/{name}-{}.json", self.folder(), Uuid::now_v7());
        Ok(warehouse.make_readable(staged, &list).await?)
    }

    async fn create_model(&self, model: &CreateModel) -> Result<Effect> {
        if !self.check_free(&model.name, Kind::Model, model.or_replace, model.if_not_exists)? {
            return Ok(Effect::default());
        }
        let folder = format!("{}/training/{}/{}", self.folder(), model.name, self.training);
        let progress = self.progress.as_ref();
        let (session, view) = (&self.session, &self.view);
        let staged = match self.rehearsed {
            true => training::rehearse(session, view, model, progress).await?,
            false => training::train(session, view, model, &self.id, folder, progress).await?,
        };
        let mut made = Made { name: model.name.to_string(), rows: 0, files: 0, bytes: 0 };
        let mut tables = BTreeMap::new();
        for (table, staged) in staged.tables {
            let all = Made::all(&model.name, &staged.contents);
            made.rows += all.rows;
            made.files += all.files;
            made.bytes += all.bytes;
            let name = format!("{}.{table}", model.name);
            tables.insert(table, self.readable(&name, staged).await?);
        }
        let trained = ReadableModel { tables, details: staged.details };
        let models = vec![(model.name.clone(), trained)];
        Ok(Effect { made: Some(made), models, ..Effect::default() })
    }

    /// What its statements have made.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The warehouse that it writes to.
    pub fn warehouse(&self) -> &Warehouse {
        self.session.warehouse()
    }
}
