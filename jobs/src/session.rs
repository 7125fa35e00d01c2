//! A session that runs plans.
//!
//! What runs a plan is hidden in the DataFusion session state that a [`Session`] is made with: its
//! planner sends plans to a cluster, embedded or remote, or runs them in this process. Everything
//! else in this crate is written against this type.

use crate::cluster::ClusterView;
use crate::operator::{Operator, OperatorNode};
use crate::queries::Queries;
use crate::rows::with_plain_types;
use crate::small::SmallQueries;
use crate::table_functions::{
    About, ModelFunction, Question, SERIES_FUNCTIONS, Series, TABLE_FUNCTIONS,
};
use crate::view::Names;
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::dataframe::DataFrame;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::{DdlStatement, Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::ColumnDef;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use nightshift_catalog::delta::{Contents, DataFile};
use nightshift_catalog::schema::stored;
use nightshift_catalog::warehouse::{StagedTable, Warehouse};
use nightshift_catalog::write::{WriteTarget, files_of};
use std::sync::Arc;
use url::Url;

/// The catalog that names of one and two parts are in.
pub(crate) const CATALOG: &str = "nightshift";

/// The schema that names of one part are in.
pub(crate) const SCHEMA: &str = "default";

/// Steps of a plan. Views that read views several times each can make any number of them.
const MOST_NODES: usize = 10_000;

/// How often a plan is run whose results were lost with an executor.
const ATTEMPTS: usize = 4;

/// Whether an error says that an executor or the scheduler could not be reached, or that the scheduler has cancelled
/// the job because an executor was lost together with results. Ballista itself only runs tasks again that
/// were lost before their end.
pub(crate) fn is_lost_executor(error: &DataFusionError) -> bool {
    let text = error.to_string();
    [
        "fetch partition error",
        "GrpcConnectionError",
        "Grpc connection error",
        "GrpcActionError",
        "Grpc Execute Action error",
        "transport error",
        "tonic::transport::Error",
        "error reading a body from connection",
        "Stream closed without job completing",
        "h2 protocol error",
        "failed: Cancelled",
    ]
    .iter()
    .any(|sign| text.contains(sign))
}

/// Whether an error says that an executor's memory was not enough. What comes from an executor is the
/// text of the error, as programmers read it.
fn is_out_of_memory(error: &DataFusionError) -> bool {
    let text = error.to_string();
    ["Resources exhausted", "ResourcesExhausted"].iter().any(|sign| text.contains(sign))
}

/// How many times as many partitions a job has that is run again because memory was short.
const SMALLER: usize = 8;

/// The same session with smaller partitions and so with smaller hash tables, none of which holds a whole
/// table; if it has had them already, with joins that need none and can spill. `None` if it has had those
/// too.
fn for_less_memory(state: &SessionState, attempt: usize) -> Option<SessionState> {
    let mut config = state.config().clone();
    let partitions = config.target_partitions() * SMALLER;
    let optimizer = &mut config.options_mut().optimizer;
    match attempt {
        0 => {
            optimizer.hash_join_single_partition_threshold = 0;
            optimizer.hash_join_single_partition_threshold_rows = 0;
            config = config.with_target_partitions(partitions);
        }
        1 => optimizer.prefer_hash_join = false,
        _ => return None,
    }
    Some(configured(state, config))
}

/// The same session with another configuration. To build one takes as long as to run a small query.
fn configured(state: &SessionState, config: SessionConfig) -> SessionState {
    let mut state = state.clone();
    *state.config_mut() = config;
    state
}

/// Refuses plans that views have made too large to be gone through.
fn check_size(plan: &LogicalPlan) -> Result<()> {
    let mut nodes = 0;
    plan.apply(|_| {
        nodes += 1;
        Ok(if nodes > MOST_NODES { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    match nodes > MOST_NODES {
        true => Err(JobError::Statement(format!(
            "with all the views that it reads, the query has more than {MOST_NODES} steps: put some of \
             them into tables, with CREATE TABLE … AS"
        ))),
        false => Ok(()),
    }
}

/// Rows, when the first are there: an error before them is one of the query, not of its rows.
async fn begun(mut rows: SendableRecordBatchStream) -> PlanResult<SendableRecordBatchStream> {
    let first = rows.try_next().await?;
    let schema = rows.schema();
    let rows = futures::stream::iter(first.map(Ok)).chain(rows);
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}

/// Runs plans against a warehouse.
#[derive(Debug, Clone)]
pub struct Session {
    state: SessionState,
    warehouse: Warehouse,
    locations: Vec<Url>,
    small: SmallQueries,
    queries: Queries,
    cluster: Option<Arc<dyn ClusterView>>,
}

impl Session {
    /// A session whose plans `state` runs. External tables may only be in the warehouse or under one
    /// of `locations`.
    pub fn new(state: SessionState, warehouse: Warehouse, locations: Vec<Url>) -> Self {
        let small = SmallQueries::new(&state);
        Self { state, warehouse, locations, small, queries: Queries::default(), cluster: None }
    }

    /// The same session, which can tell of the cluster that it runs on.
    pub fn with_cluster(self, cluster: Arc<dyn ClusterView>) -> Self {
        Self { cluster: Some(cluster), ..self }
    }

    /// The cluster that it runs on, if it can tell of it.
    pub fn cluster(&self) -> Option<&dyn ClusterView> {
        self.cluster.as_deref()
    }

    /// What is executed in this session and its clones, and what was.
    pub fn queries(&self) -> &Queries {
        &self.queries
    }

    /// The warehouse.
    pub fn warehouse(&self) -> &Warehouse {
        &self.warehouse
    }

    /// The folders besides the warehouse that external tables may be in.
    pub fn locations(&self) -> &[Url] {
        &self.locations
    }

    /// The object stores and memory limits of this process.
    pub fn runtime(&self) -> &Arc<RuntimeEnv> {
        self.state.runtime_env()
    }

    /// The engine's session.
    pub fn state(&self) -> &SessionState {
        &self.state
    }

    /// Runs a plan and hands on its rows as they come: in this process if it is a small query, else on
    /// the cluster. A plan that loses an executor before its first row is run again, as is one whose
    /// hash joins don't fit into memory, with joins that spill.
    pub async fn stream(&self, plan: LogicalPlan) -> Result<SendableRecordBatchStream> {
        if let Some(rows) = self.small.run(&plan).await? {
            return Ok(begun(rows).await?);
        }
        self.run_again_when_lost(
            self.for_query().await?,
            |frame| Box::pin(async { begun(frame.execute_stream().await?).await }),
            with_plain_types(plan)?,
        )
        .await
    }

    /// Runs a plan and gathers its rows. A plan that loses an executor, or whose hash joins don't fit
    /// into memory, is run again: what our operators write a second time is the same, or unreferenced.
    pub async fn collect(&self, plan: LogicalPlan) -> Result<Vec<RecordBatch>> {
        self.run_again_when_lost(self.state.clone(), |frame| Box::pin(frame.collect()), plan).await
    }

    /// The engine's session for a query whose rows are only looked at. What is written is always planned in
    /// the same way, so that it doesn't depend on the cluster.
    async fn for_query(&self) -> Result<SessionState> {
        let Some(cluster) = &self.cluster else { return Ok(self.state.clone()) };
        Ok(configured(&self.state, cluster.for_query(self.state.config().clone()).await?))
    }

    /// `run` borrows nothing, so that whoever calls this can go on in another thread.
    async fn run_again_when_lost<T>(
        &self,
        mut state: SessionState,
        run: fn(DataFrame) -> BoxFuture<'static, PlanResult<T>>,
        plan: LogicalPlan,
    ) -> Result<T> {
        let (mut attempt, mut shortages) = (1, 0);
        // It is now, however often it is run.
        state.mark_start_execution();
        loop {
            match run(DataFrame::new(state.clone(), plan.clone())).await {
                Err(error) if is_out_of_memory(&error) => {
                    let Some(smaller) = for_less_memory(&state, shortages) else {
                        return Err(error.into());
                    };
                    shortages += 1;
                    let partitions = smaller.config().target_partitions();
                    let hash_joins = smaller.config().options().optimizer.prefer_hash_join;
                    tracing::warn!(%error, partitions, hash_joins, "memory was short, the job is run again");
                    state = smaller;
                }
                Err(error) if attempt < ATTEMPTS && is_lost_executor(&error) => {
                    tracing::warn!(%error, attempt, "an executor or the scheduler was lost, the job is run again");
                    attempt += 1;
                }
                done => return Ok(done?),
            }
        }
    }

    /// Plans SQL over the tables given, whose names have one part.
    pub async fn plan_over(
        &self,
        sql: &str,
        tables: &[(&str, Arc<dyn TableProvider>)],
    ) -> Result<LogicalPlan> {
        let mut names = Names::default();
        for (name, table) in tables {
            names.tables.insert(TableReference::bare(*name), Arc::clone(table));
        }
        let statement = self.state.sql_to_statement(sql, &datafusion::config::Dialect::Generic)?;
        self.plan(statement, names).await
    }

    /// Plans a statement over the tables that have been found for its names.
    pub(crate) async fn plan(
        &self,
        statement: EngineStatement,
        names: Names,
    ) -> Result<LogicalPlan> {
        let config = self.state.config().clone();
        let config = config.with_default_catalog_and_schema(CATALOG, SCHEMA);
        let mut state = configured(&self.state, config);
        state.register_catalog_list(names.catalogs()?);
        let models = Arc::new(names.models);
        for question in Question::ALL {
            let asked = ModelFunction { question, models: Arc::clone(&models) };
            state.register_udtf(question.function(), Arc::new(asked));
        }
        for function in TABLE_FUNCTIONS {
            let answers = names.about.iter().filter(|((name, _), _)| name == function);
            let answers = answers.map(|((_, table), answer)| (table.clone(), answer.clone()));
            let answers = About { function: function.to_string(), answers: answers.collect() };
            state.register_udtf(function, Arc::new(answers));
        }
        for &(function, with_end) in SERIES_FUNCTIONS {
            state.register_udtf(function, Arc::new(Series { function, with_end }));
        }
        let plan = state.statement_to_plan(statement).await?;
        check_size(&plan)?;
        // Only queries get here; nothing that an EXPLAIN or a subquery could hide writes or sets.
        let only_queries = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        only_queries.verify_plan(&plan)?;
        Ok(plan)
    }

    /// A plan as it is before it is optimized: with the types of its expressions matched, or refused.
    pub fn analyze(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let (analyzer, options) = (self.state.analyzer(), self.state.config_options());
        Ok(analyzer.execute_and_check(plan, options, |_, _| {})?)
    }

    /// The columns that a statement declares, as the engine understands them.
    pub async fn declared_columns(&self, columns: &[ColumnDef]) -> Result<Schema> {
        let (plain, comments) = crate::change::declared(columns)?;
        let text = format!("CREATE TABLE declared ({plain})");
        let dialect = datafusion::config::Dialect::Generic;
        let statement = self.state.sql_to_statement(&text, &dialect)?;
        let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(table)) =
            self.state.statement_to_plan(statement).await?
        else {
            return Err(JobError::Statement(format!("{plain}: not columns")));
        };
        let schema = stored(table.input.schema().as_arrow())?;
        let commented = |field: &Arc<Field>| {
            let comment = comments.get(field.name()).cloned();
            let comment = comment.map(|text| ("comment".to_string(), text));
            field.as_ref().clone().with_metadata(comment.into_iter().collect())
        };
        Ok(Schema::new(schema.fields().iter().map(commented).collect::<Vec<_>>()))
    }

    /// Writes the rows of a plan as a table, uncommitted, for a run.
    pub async fn write_table(
        &self,
        run: &str,
        plan: LogicalPlan,
        folder: &str,
    ) -> Result<StagedTable> {
        let schema = Arc::new(stored(plan.schema().as_arrow())?);
        let files = self.write_files(run, plan, folder, &schema, &[]).await?;
        let contents = Contents::plain(schema, files);
        Ok(StagedTable { folder: folder.to_string(), contents, base: None, appended: None })
    }

    /// Writes the rows of a plan, whose columns are those of `schema` in order, as files of a table,
    /// uncommitted, for a run.
    pub async fn write_files(
        &self,
        run: &str,
        plan: LogicalPlan,
        folder: &str,
        schema: &SchemaRef,
        partition_columns: &[String],
    ) -> Result<Vec<DataFile>> {
        let plan = Self::as_stored(plan, schema)?;
        let target = self.warehouse.write_target(run, folder, partition_columns)?;
        self.write_to(target, plan).await
    }

    /// The rows of a plan, whose columns are those of `schema` in order, with the types of `schema`.
    pub fn as_stored(plan: LogicalPlan, schema: &SchemaRef) -> Result<LogicalPlan> {
        let columns: Vec<Expr> = plan
            .schema()
            .columns()
            .into_iter()
            .zip(schema.fields())
            .map(|(column, field)| {
                cast(Expr::Column(column), field.data_type().clone()).alias(field.name())
            })
            .collect();
        Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?)
    }

    /// Writes the rows of a plan as files.
    pub async fn write_to(&self, target: WriteTarget, plan: LogicalPlan) -> Result<Vec<DataFile>> {
        let plan = OperatorNode::plan(Operator::WriteTable(target), Some(plan))?;
        Ok(files_of(&self.collect(plan).await?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_told_from_other_faults_wherever_it_was_short() {
        let here = DataFusionError::ResourcesExhausted("11.5 MB are taken".to_string());
        let there = DataFusionError::Execution(format!("Job 1 failed: {here:?}"));
        let other = DataFusionError::Execution("Job 1 failed: Cancelled".to_string());
        assert!(is_out_of_memory(&here) && is_out_of_memory(&there) && !is_out_of_memory(&other));
        assert!(is_lost_executor(&other) && !is_lost_executor(&there));
    }
}
