//! Training drivers: prepare the data, run supersteps until it is enough, make tables of the result.
//!
//! The training query runs once. Its ids become dense numbers in the order of the ids, and its entries are
//! written as blocks. From there on only numbers are touched.

mod als;
mod checkpoint;
mod explain;
mod options;
mod pagerank;
mod prepare;
mod rehearse;
mod select;
mod teleport;
mod warm_start;

pub use explain::explain;
pub use options::{MatrixFactorization, ModelSpec, PageRank, model_spec, recorded_spec, reference};
pub use rehearse::rehearse;

use crate::operator::{Operator, OperatorNode};
use crate::progress::Progress;
use crate::session::Session;
use crate::statement::{CreateModel, Statement, reads};
use crate::superstep::{Folder, Reuse, Superstep, total};
use crate::view::View;
use crate::{JobError, Result};
use arrow::array::AsArray;
use arrow::compute::sum;
use arrow::datatypes::{Float64Type, UInt32Type};
use checkpoint::Checkpoints;
use datafusion::catalog::TableProvider;
use datafusion::datasource::ViewTable;
use datafusion::logical_expr::LogicalPlan;
use futures::future::{try_join, try_join_all};
use nightshift_catalog::registry::ModelDetails;
use nightshift_catalog::warehouse::{Name, StagedModel, StagedTable, Warehouse};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A training that is under way.
pub struct Training<'a> {
    session: &'a Session,
    view: &'a View,
    name: &'a Name,
    run: &'a str,
    /// The folder of its intermediate data within the warehouse.
    folder: String,
    progress: &'a dyn Progress,
    checkpoints: Checkpoints,
    /// How often blocks were in an executor's memory, and how often they were read.
    reuse: Reuse,
}

/// What a training has made.
struct Trained {
    tables: BTreeMap<String, StagedTable>,
    metrics: BTreeMap<String, f64>,
    /// How long each iteration took.
    iteration_seconds: Vec<f64>,
}

/// What a superstep returns.
struct Answers {
    /// The measures of each block, in the order of the blocks.
    measures: Vec<Vec<f64>>,
    /// How many times blocks were worked on together, or one alone.
    together: usize,
}

/// The names of the tables that a model of a type has.
pub fn table_names(spec: &ModelSpec) -> &'static [&'static str] {
    match spec {
        ModelSpec::MatrixFactorization(_) => &["user_factors", "item_factors", "training_info"],
        ModelSpec::PageRank(_) => &["ranks", "training_info"],
    }
}

/// Trains a model for a run. Intermediate data goes to `folder`, a name within the warehouse; the tables of the
/// result are written and not published.
pub async fn train(
    session: &Session,
    view: &View,
    statement: &CreateModel,
    run: &str,
    folder: String,
    progress: &dyn Progress,
) -> Result<StagedModel> {
    let spec = model_spec(statement)?;
    let started = Instant::now();
    let plan = view.plan_query(session, &statement.query).await?;
    let (name, reuse) = (&statement.name, Reuse::default());
    let checkpoints =
        Checkpoints::open(&session.warehouse().storage().folder(&folder), run).await?;
    let training = Training { session, view, name, run, folder, progress, checkpoints, reuse };
    let trained = match &spec {
        ModelSpec::MatrixFactorization(spec) => training.matrix_factorization(spec, plan).await?,
        ModelSpec::PageRank(spec) => training.pagerank(spec, plan).await?,
    };
    let mut metrics = trained.metrics;
    metrics.insert("seconds".to_string(), started.elapsed().as_secs_f64());
    let (kept, read) = (training.reuse.kept.into_inner(), training.reuse.read.into_inner());
    metrics.insert("blocks_read".to_string(), f64::from(read));
    metrics.insert("blocks_kept".to_string(), f64::from(kept));
    let mut details = details(statement, &spec, view)?;
    (details.metrics, details.iteration_seconds) = (metrics, trained.iteration_seconds);
    Ok(StagedModel { tables: trained.tables, details })
}

/// How long the steps of one job take, about: they are a state that is written, and progress that is shown. Around them a job
/// takes a tenth of a second, for a state of millions of ranks.
const JOB_SECONDS: f64 = 3.0;

/// Steps of one job at most.
const MOST_STEPS: usize = 64;

/// What is known of a model before it is trained.
fn details(statement: &CreateModel, spec: &ModelSpec, view: &View) -> Result<ModelDetails> {
    let mut references = reads(&Statement::CreateModel(statement.clone()))?;
    if spec.warm_start() {
        references.models.insert(statement.name.to_string());
    }
    let options: BTreeMap<_, _> = statement
        .options
        .iter()
        .map(|option| (option.name.clone(), option.value.to_json()))
        .collect();
    let model_type = options.get("model_type").and_then(|kind| kind.as_str()).unwrap_or_default();
    Ok(ModelDetails {
        model_type: model_type.to_string(),
        metrics: BTreeMap::new(),
        query: statement.query.to_string(),
        inputs: view.versions(&references),
        options,
        iteration_seconds: Vec::new(),
        held_by: Vec::new(),
    })
}

impl Training<'_> {
    /// A folder of this training.
    fn folder(&self, name: &str) -> Folder {
        let folder = self.session.warehouse().storage().folder(&self.folder).folder(name);
        Folder(folder.url().clone())
    }

    /// Forgets a folder of this training.
    async fn remove(&self, name: &str) -> Result<()> {
        self.checkpoints.ensure_ours().await?;
        let folder = self.session.warehouse().storage().folder(&self.folder).folder(name);
        Ok(folder.delete_all().await?)
    }

    /// Does a step and meanwhile removes folders that nothing needs any more.
    async fn removing<T>(
        &self,
        folders: &[String],
        step: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let remove = try_join_all(folders.iter().map(|folder| self.remove(folder)));
        Ok(try_join(step, remove).await?.0)
    }

    /// Runs one superstep and returns the measures of each block, in the order of the blocks.
    async fn superstep(&self, step: Superstep) -> Result<Vec<Vec<f64>>> {
        Ok(self.superstep_of(step, Vec::new()).await?.measures)
    }

    /// The same, where it is known how much work each block is.
    async fn superstep_of(&self, step: Superstep, work: Vec<u64>) -> Result<Answers> {
        let (name, blocks) = (step.kernel().name(), step.kernel().blocks());
        let started = Instant::now();
        let plan = OperatorNode::plan(Operator::Superstep { step: Box::new(step), work }, None)?;
        let mut measures = vec![None; blocks as usize];
        let (mut busy, mut kept, mut read, mut together) = (0.0, 0, 0, 0);
        for batch in self.session.collect(plan).await? {
            let numbers = batch.column(0).as_primitive::<UInt32Type>();
            let lists = batch.column(1).as_list::<i32>();
            let seconds = batch.column(2).as_primitive::<Float64Type>();
            busy += sum(seconds).unwrap_or(0.0);
            together += seconds.values().iter().filter(|seconds| **seconds > 0.0).count();
            kept += sum(batch.column(3).as_primitive::<UInt32Type>()).unwrap_or(0);
            read += sum(batch.column(4).as_primitive::<UInt32Type>()).unwrap_or(0);
            for row in 0..batch.num_rows() {
                let list = lists.value(row).as_primitive::<Float64Type>().values().to_vec();
                if let Some(slot) = measures.get_mut(numbers.value(row) as usize) {
                    *slot = Some(list);
                }
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        self.reuse.kept.fetch_add(kept, Ordering::Relaxed);
        self.reuse.read.fetch_add(read, Ordering::Relaxed);
        let model = self.name;
        tracing::debug!(run = self.run, %model, name, seconds, busy, kept, read, "superstep");
        let measures = measures.into_iter().collect::<Option<_>>();
        let measures = measures.ok_or_else(|| no_answer(&self.name.to_string()))?;
        Ok(Answers { measures, together })
    }

    /// Plans SQL over the rows that a step returns, as the table `export`, and other tables.
    async fn plan_export(
        &self,
        export: Superstep,
        sql: &str,
        tables: &[(&str, Arc<dyn TableProvider>)],
    ) -> Result<LogicalPlan> {
        let export = OperatorNode::plan(Operator::superstep(export), None)?;
        let mut tables = tables.to_vec();
        tables.push(("export", Arc::new(ViewTable::new(export, None))));
        self.session.plan_over(sql, &tables).await
    }

    /// Writes one of the model's tables.
    async fn write(&self, table: &str, plan: LogicalPlan) -> Result<StagedTable> {
        let folder = Warehouse::model_table_folder(self.name, table);
        self.session.write_table(self.run, plan, &folder).await
    }

    /// Writes the model's table `training_info`: the iterations and what was measured in each.
    async fn write_training_info(
        &self,
        columns: &[&str],
        rows: &[Vec<f64>],
    ) -> Result<StagedTable> {
        self.write("training_info", self.plan_training_info(columns, rows).await?).await
    }

    async fn plan_training_info(&self, columns: &[&str], rows: &[Vec<f64>]) -> Result<LogicalPlan> {
        let rows = rows.iter().enumerate().map(|(index, values)| {
            let values: Vec<_> =
                values.iter().map(|value| format!("CAST({value:e} AS DOUBLE)")).collect();
            format!("({}, {})", index + 1, values.join(", "))
        });
        let rows = rows.collect::<Vec<_>>().join(", ");
        let sql =
            format!("SELECT * FROM (VALUES {rows}) AS info(iteration, {})", columns.join(", "));
        self.session.plan_over(&sql, &[]).await
    }
}

/// When jobs ask for one step, of which tasks could do several: tasks have waited for each other in vain.
struct Backoff {
    /// So many jobs from now on.
    alone: usize,
    /// And after those, if it happens again.
    next: usize,
}

impl Backoff {
    fn new() -> Self {
        Self { alone: 0, next: 1 }
    }

    /// A job that was asked for so many steps has `done` fewer, or as many.
    fn after(&mut self, asked: usize, done: usize) {
        if asked > 1 && done == 1 {
            (self.alone, self.next) = (self.next, (2 * self.next).min(MOST_STEPS));
        } else if done > 1 {
            self.next = 1;
        }
    }

    /// How many steps the next job may do, which would be as long as one may be with so many.
    fn steps(&mut self, steps: usize) -> usize {
        match self.alone.checked_sub(1) {
            Some(left) => {
                self.alone = left;
                1
            }
            None => steps,
        }
    }
}

/// The steps of a job that may do several, of which each takes so many seconds.
fn steps_of_job(seconds: f64) -> usize {
    ((JOB_SECONDS / seconds).ceil() as usize).clamp(1, MOST_STEPS)
}

fn no_answer(model: &str) -> JobError {
    JobError::Damaged {
        what: format!("a superstep of {model}"),
        reason: "not every block has answered".to_string(),
    }
}

/// A quoted identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_that_have_waited_in_vain_try_again_after_twice_as_many_jobs() {
        let mut backoff = Backoff::new();
        let mut asked = |done: &[usize]| {
            let job = |done: &usize| {
                let asked = backoff.steps(8);
                backoff.after(asked, *done.min(&asked));
                asked
            };
            done.iter().map(job).collect::<Vec<_>>()
        };
        assert_eq!(asked(&[8, 5, 1]), [8, 8, 8]);
        assert_eq!(asked(&[1, 1]), [1, 8]);
        assert_eq!(asked(&[1, 1, 1]), [1, 1, 8]);
        assert_eq!(asked(&[1, 1, 1, 1, 2]), [1, 1, 1, 1, 8]);
        // They have found each other again.
        assert_eq!(asked(&[1, 1, 8]), [8, 1, 8]);
    }
}
