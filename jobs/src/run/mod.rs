//! A run: statements executed together and published together, or not at all.
//!
//! What a run writes is seen by its own statements only, until [`Run::publish`] makes all of it what
//! everybody sees, in one commit. A run that fails is abandoned: its files are deleted.

use crate::change;
use crate::external::{ExternalTable, Externals};
use crate::progress::Progress;
use crate::session::Session;
use crate::statement::{CreateModel, Located, Statement};
use crate::view::View;
use crate::{JobError, Result, training};
use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::CreateExternalTable;
use nightshift_catalog::CatalogError;
use nightshift_catalog::delta::Contents;
use nightshift_catalog::export::ExportTarget;
use nightshift_catalog::registry::{Entry, Kind};
use nightshift_catalog::scan::WarehouseTable;
use nightshift_catalog::warehouse::{Name, Staged, Warehouse, run_folder};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

mod copies;
mod names;
mod rehearsal;
mod tables;

pub use rehearsal::Rehearsal;

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
#[derive(Debug, Clone, PartialEq)]
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

/// What a statement has made.
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

/// A run that is under way.
pub struct Run {
    id: String,
    operation: String,
    session: Session,
    view: View,
    staged: Staged,
    /// Tables' folders that the run has begun to write to.
    touched: BTreeSet<String>,
    /// Where it writes files for other programs.
    exports: Vec<ExportTarget>,
    steps: Vec<Step>,
    progress: Arc<dyn Progress>,
    /// Whether statements are only planned.
    rehearsed: bool,
}

impl Run {
    /// Begins a run. `operation` says what it is, for the record; `externals` are files that it can
    /// read in place from the start.
    pub async fn start(
        session: Session,
        operation: String,
        externals: Externals,
        progress: Arc<dyn Progress>,
    ) -> Result<Self> {
        let run = Self::prepare(session, operation, externals, progress, false).await?;
        run.session.warehouse().open_run(&run.id).await?;
        tracing::info!(run = %run.id, operation = run.operation, "run started");
        Ok(run)
    }

    async fn prepare(
        session: Session,
        operation: String,
        externals: Externals,
        progress: Arc<dyn Progress>,
        rehearsed: bool,
    ) -> Result<Self> {
        let view = View::now(&session, externals).await?;
        let id = Uuid::now_v7().to_string();
        Ok(Self {
            id,
            operation,
            session,
            view,
            staged: Staged::default(),
            touched: BTreeSet::new(),
            exports: Vec::new(),
            steps: Vec::new(),
            progress,
            rehearsed,
        })
    }

    /// Its id; ids are in the order in which runs began.
    pub fn id(&self) -> &str {
        &self.id
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
        let started = Instant::now();
        let made = match self.perform(&located.statement, folder).await {
            Ok(made) => made,
            // To explain it can take reading all files.
            Err(error) if self.rehearsed => return Err(located.locate(error)),
            Err(error) => {
                return Err(located
                    .locate(explain(&self.session, self.view.externals(), located, error).await));
            }
        };
        if let Some(made) = made.filter(|_| !self.rehearsed) {
            let Made { name, rows, files, bytes } = made;
            let seconds = started.elapsed().as_secs_f64();
            tracing::info!(run = %self.id, step = name, rows, seconds, "step done");
            self.steps.push(Step { name, rows, files, bytes, seconds });
        }
        Ok(())
    }

    async fn perform(
        &mut self,
        statement: &Statement,
        folder: Option<PathBuf>,
    ) -> Result<Option<Made>> {
        match statement {
            Statement::Query(_) | Statement::ExplainModel(_) => {
                Err(JobError::Statement("a query makes nothing: use CREATE TABLE … AS".to_string()))
            }
            Statement::CreateSchema { name, if_not_exists } => {
                self.create_schema(name, *if_not_exists)
            }
            Statement::CreateTable(table) => self.create_table(table).await,
            Statement::CreateExternalTable(table) => {
                self.create_external(table.clone(), folder).await
            }
            Statement::CreateView(view) => self.create_view(view).await,
            Statement::CreateModel(model) => self.create_model(model).await,
            Statement::Drop(drop) => self.drop(drop),
            Statement::AddColumns { table, columns } => self.add_columns(table, columns).await,
            Statement::Comment { table, column, text } => {
                self.comment(table, column.as_deref(), text.as_deref()).await
            }
            Statement::SetModelVersion { model, version } => self.set_version(model, *version),
            Statement::Restore { table, moment } => self.restore(table, moment).await,
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

    /// Runs a check: a query that returns the rows that are wrong.
    pub async fn check(&self, name: &str, located: &Located) -> Result<()> {
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
            return Ok(());
        }
        let mut sample = Vec::new();
        let mut left = SAMPLE;
        for batch in &batches {
            let taken = batch.slice(0, left.min(batch.num_rows()));
            left -= taken.num_rows();
            sample.push(taken);
        }
        let sample = pretty_format_batches(&sample)?.to_string();
        Err(JobError::Check { check: name.to_string(), rows, sample })
    }

    /// A table of this run that its other statements can read.
    async fn stage(&self, name: &str, folder: &str, contents: &Contents) -> Result<WarehouseTable> {
        let warehouse = self.session.warehouse();
        if self.rehearsed {
            return Ok(warehouse.planned(folder, contents));
        }
        let list = format!("{}/staged/{name}.json", self.folder());
        Ok(warehouse.stage(folder, contents, &list).await?)
    }

    async fn create_external(
        &mut self,
        table: CreateExternalTable,
        folder: Option<PathBuf>,
    ) -> Result<Option<Made>> {
        let name = crate::statement::name_of(&table.name)?.to_string();
        let external = ExternalTable::open(&self.session, table, folder.as_deref()).await?;
        self.view.add_external(name, external);
        Ok(None)
    }

    async fn create_model(&mut self, model: &CreateModel) -> Result<Option<Made>> {
        if !self.check_free(&model.name, Kind::Model, model.or_replace, model.if_not_exists)? {
            return Ok(None);
        }
        for table in training::table_names(&training::model_spec(model)?) {
            self.touched.insert(Warehouse::model_table_folder(&model.name, table));
        }
        let folder = format!("{}/training/{}", self.folder(), model.name);
        let progress = self.progress.as_ref();
        let (session, view) = (&self.session, &self.view);
        let staged = match self.rehearsed {
            true => training::rehearse(session, view, model, progress).await?,
            false => training::train(session, view, model, &self.id, folder, progress).await?,
        };
        let mut made = Made { name: model.name.to_string(), rows: 0, files: 0, bytes: 0 };
        for (name, table) in &staged.tables {
            let all = Made::all(&model.name, &table.contents);
            made.rows += all.rows;
            made.files += all.files;
            made.bytes += all.bytes;
            let name = format!("{}.{name}", model.name);
            let provider = self.stage(&name, &table.folder, &table.contents).await?;
            self.view.stage(name, provider);
        }
        self.view.stage_model(model.name.to_string(), staged.details.clone());
        self.staged.models.insert(model.name.clone(), staged);
        Ok(Some(made))
    }

    /// Publishes everything in one commit.
    pub async fn publish(self) -> Result<(Vec<Step>, Vec<Entry>)> {
        let warehouse = self.session.warehouse();
        let published = if self.staged.is_empty() {
            Vec::new()
        } else {
            match warehouse.publish(&self.id, &self.operation, &self.staged).await {
                Ok(published) => published,
                // What may be published must keep its files. VACUUM deletes them if it is not.
                Err(error @ CatalogError::Unsettled { .. }) => {
                    if let Err(left) = warehouse.close_run(&self.id).await {
                        let id = &self.id;
                        self.progress.note(&format!("run {id} still counts as under way: {left}"));
                    }
                    return Err(error.into());
                }
                Err(error) => {
                    self.abandon().await?;
                    return Err(error.into());
                }
            }
        };
        for entry in &published {
            tracing::info!(run = %self.id, publication = entry.publication, name = entry.name,
                version = entry.version, "published");
        }
        // What is published stands, whether or not the rest can be tidied up.
        let kept = self.staged.files();
        let tidied = async {
            warehouse.close_run(&self.id).await?;
            warehouse.discard(&self.id, &self.touched, &kept).await?;
            warehouse.forget(&self.folder()).await
        };
        if let Err(error) = tidied.await {
            self.progress.note(&format!("some intermediate files could not be deleted: {error}"));
        }
        for export in &self.exports {
            export.publish(&self.id).await?;
        }
        Ok((self.steps, published))
    }

    /// Deletes everything that the run has written.
    pub async fn abandon(self) -> Result<()> {
        let warehouse = self.session.warehouse();
        warehouse.close_run(&self.id).await?;
        warehouse.discard(&self.id, &self.touched, &BTreeSet::new()).await?;
        for export in &self.exports {
            export.discard(&self.id).await?;
        }
        warehouse.forget(&self.folder()).await?;
        tracing::info!(run = %self.id, "run abandoned, nothing is published");
        Ok(())
    }
}
