//! A session that runs plans, and the names that its statements see.
//!
//! What runs a plan is hidden in the DataFusion session state that a [`Session`] is made with: its
//! planner sends plans to a cluster, embedded or remote, or runs them in this process. Everything
//! else in this crate is written against this type.

use crate::external::{ExternalTable, Externals};
use crate::introspection;
use crate::operator::{Operator, OperatorNode};
use crate::statement::{Moment, References, parse_time};
use crate::suggest::did_you_mean;
use crate::table_functions::{About, ModelTables, RecommendFunction};
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider, TableProvider,
};
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::ViewTable;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::logical_expr::{DdlStatement, Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::parser::{DFParser, Statement as EngineStatement};
use datafusion::sql::sqlparser::ast::ColumnDef;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use nightshift_catalog::delta::{Contents, DataFile};
use nightshift_catalog::registry::{Details, Kind, Registry};
use nightshift_catalog::scan::WarehouseTable;
use nightshift_catalog::schema::stored;
use nightshift_catalog::warehouse::{Name, StagedTable, Warehouse};
use nightshift_catalog::write::{WriteTarget, files_of};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use url::Url;

/// The catalog that names of one and two parts are in.
const CATALOG: &str = "nightshift";

/// The schema that names of one part are in.
const SCHEMA: &str = "default";

/// The name under which everybody can read what was published, when and by which run.
const REGISTRY: &str = "system.registry";

/// How often a plan is run whose results were lost with an executor.
const ATTEMPTS: usize = 4;

/// Whether an error says that an executor could not be reached, or that the scheduler has cancelled
/// the job because one was lost together with results. Ballista itself only runs tasks again that
/// were lost before their end.
fn is_lost_executor(error: &DataFusionError) -> bool {
    let text = error.to_string();
    [
        "fetch partition error",
        "GrpcConnectionError",
        "Grpc connection error",
        "GrpcActionError",
        "Grpc Execute Action error",
        "transport error",
        "h2 protocol error",
        "failed: Cancelled",
    ]
    .iter()
    .any(|sign| text.contains(sign))
}

/// Runs plans against a warehouse.
#[derive(Debug, Clone)]
pub struct Session {
    state: SessionState,
    warehouse: Warehouse,
    locations: Vec<Url>,
}

impl Session {
    /// A session whose plans `state` runs. External tables may only be in the warehouse or under one
    /// of `locations`.
    pub fn new(state: SessionState, warehouse: Warehouse, locations: Vec<Url>) -> Self {
        let mut config = state.config().clone();
        // Errors say at which column they are.
        config.options_mut().sql_parser.collect_spans = true;
        let state = SessionStateBuilder::new_from_existing(state).with_config(config).build();
        Self { state, warehouse, locations }
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

    /// Runs a plan and hands on its rows as they come. A plan that loses an executor before its first
    /// row is run again.
    pub async fn stream(&self, plan: LogicalPlan) -> Result<SendableRecordBatchStream> {
        self.run_again_when_lost(
            |frame| {
                Box::pin(async {
                    let mut rows = frame.execute_stream().await?;
                    let first = rows.try_next().await?;
                    let schema = rows.schema();
                    let rows = futures::stream::iter(first.map(Ok)).chain(rows);
                    let rows = RecordBatchStreamAdapter::new(schema, rows);
                    Ok(Box::pin(rows) as SendableRecordBatchStream)
                })
            },
            plan,
        )
        .await
    }

    /// Runs a plan and gathers its rows. A plan that loses an executor is run again: what our
    /// operators write a second time is the same, or unreferenced.
    pub async fn collect(&self, plan: LogicalPlan) -> Result<Vec<RecordBatch>> {
        self.run_again_when_lost(|frame| Box::pin(frame.collect()), plan).await
    }

    /// `run` borrows nothing, so that whoever calls this can go on in another thread.
    async fn run_again_when_lost<T>(
        &self,
        run: fn(DataFrame) -> BoxFuture<'static, PlanResult<T>>,
        plan: LogicalPlan,
    ) -> Result<T> {
        let mut attempt = 1;
        loop {
            match run(DataFrame::new(self.state.clone(), plan.clone())).await {
                Err(error) if attempt < ATTEMPTS && is_lost_executor(&error) => {
                    tracing::warn!(%error, attempt, "an executor was lost, the job is run again");
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
    async fn plan(&self, statement: EngineStatement, names: Names) -> Result<LogicalPlan> {
        let mut state = SessionStateBuilder::new_from_existing(self.state.clone())
            .with_catalog_list(names.catalogs()?)
            .with_config(
                self.state
                    .config()
                    .clone()
                    .with_default_catalog_and_schema(CATALOG, SCHEMA)
                    .with_create_default_catalog_and_schema(false),
            )
            .build();
        state.register_udtf("ml_recommend", Arc::new(RecommendFunction { models: names.models }));
        for function in introspection::TABLE_FUNCTIONS {
            let answers = names.about.iter().filter(|((name, _), _)| name == function);
            let answers = answers.map(|((_, table), answer)| (table.clone(), answer.clone()));
            let answers = About { function: function.to_string(), answers: answers.collect() };
            state.register_udtf(function, Arc::new(answers));
        }
        let plan = state.statement_to_plan(statement).await?;
        // Only queries get here; nothing that an EXPLAIN or a subquery could hide writes or sets.
        let only_queries = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        only_queries.verify_plan(&plan)?;
        Ok(plan)
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
        let plan = OperatorNode::plan(&Operator::WriteTable(target), Some(plan))?;
        Ok(files_of(&self.collect(plan).await?)?)
    }
}

/// The tables and models that a statement's names stand for.
#[derive(Default)]
struct Names {
    tables: HashMap<TableReference, Arc<dyn TableProvider>>,
    models: HashMap<String, ModelTables>,
    about: HashMap<(String, String), LogicalPlan>,
}

impl Names {
    fn catalogs(&self) -> PlanResult<Arc<MemoryCatalogProviderList>> {
        let mut schemas: BTreeMap<(String, String), Arc<MemorySchemaProvider>> = BTreeMap::new();
        for (name, table) in &self.tables {
            let full = name.clone().resolve(CATALOG, SCHEMA);
            let schema = (full.catalog.to_string(), full.schema.to_string());
            let provider = schemas.entry(schema).or_default();
            provider.register_table(full.table.to_string(), Arc::clone(table))?;
        }
        let list = MemoryCatalogProviderList::new();
        let mut catalogs: BTreeMap<String, Arc<MemoryCatalogProvider>> = BTreeMap::new();
        for ((catalog, schema), provider) in schemas {
            let catalog = catalogs.entry(catalog).or_default();
            catalog.register_schema(&schema, provider)?;
        }
        catalogs.entry(CATALOG.to_string()).or_default();
        for (name, catalog) in catalogs {
            datafusion::catalog::CatalogProviderList::register_catalog(&list, name, catalog);
        }
        Ok(Arc::new(list))
    }
}

/// One consistent view of the warehouse: what is published at one moment, under what a run has
/// staged since.
#[derive(Debug, Clone)]
pub struct View {
    registry: Registry,
    staged: BTreeMap<String, WarehouseTable>,
    /// Queries that the run has given names to.
    views: BTreeMap<String, String>,
    /// Names that the run has given up.
    dropped: BTreeSet<String>,
    external: Externals,
}

impl View {
    /// What is published now, and files that are read in place.
    pub async fn now(session: &Session, external: Externals) -> Result<Self> {
        let registry = session.warehouse.registry().await?;
        Ok(Self {
            registry,
            staged: BTreeMap::new(),
            views: BTreeMap::new(),
            dropped: BTreeSet::new(),
            external,
        })
    }

    /// What was published when the view was made.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Puts a staged table over the published one; `name` is `schema.table` or `schema.model.table`.
    pub fn stage(&mut self, name: String, table: WarehouseTable) {
        self.dropped.remove(&name);
        self.staged.insert(name, table);
    }

    /// Puts a query under a name.
    pub fn stage_view(&mut self, name: String, query: String) {
        self.dropped.remove(&name);
        self.views.insert(name, query);
    }

    /// Whether the run has given up a name.
    pub fn is_hidden(&self, name: &str) -> bool {
        self.dropped.contains(name)
    }

    /// Hides a name, and the tables of the model if it is one.
    pub fn hide(&mut self, name: &str) {
        self.staged.retain(|key, _| key != name && !key.starts_with(&format!("{name}.")));
        self.views.remove(name);
        self.dropped.insert(name.to_string());
    }

    /// Adds files that are read in place.
    pub fn add_external(&mut self, name: String, table: ExternalTable) {
        self.external.insert(name, table);
    }

    /// All files that are read in place.
    pub fn externals(&self) -> &Externals {
        &self.external
    }

    /// The files that are read in place under a name.
    pub fn external(&self, name: &str) -> Option<&ExternalTable> {
        self.external.get(name)
    }

    /// The table of a name, if there is one.
    pub async fn table(
        &self,
        session: &Session,
        name: &TableReference,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        self.table_within(session, name, &[]).await
    }

    /// The table of a name that is used in the views `within`.
    async fn table_within(
        &self,
        session: &Session,
        name: &TableReference,
        within: &[String],
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        let key = match name {
            TableReference::Bare { table } => format!("{SCHEMA}.{table}"),
            TableReference::Full { catalog, schema, table } if &**catalog == CATALOG => {
                format!("{schema}.{table}")
            }
            other => other.to_string(),
        };
        if let Some(table) = self.external.get(&key) {
            return Ok(Some(table.provider()));
        }
        if let Some(table) = self.staged.get(&key) {
            return Ok(Some(Arc::new(table.clone())));
        }
        if key == REGISTRY {
            let table = session.warehouse.registry_table(&self.registry).await?;
            return Ok(table.map(|table| Arc::new(table) as Arc<dyn TableProvider>));
        }
        if let Some(plan) = introspection::table(session, self, &key).await? {
            return Ok(Some(Arc::new(ViewTable::new(plan, None))));
        }
        if let Some(query) = self.view(&key) {
            return self.view_table(session, key, query, within).await.map(Some);
        }
        if let Some((name, moment)) = key.rsplit_once('@') {
            let table = self.table_at(session, name, moment).await?;
            return Ok(Some(Arc::new(table)));
        }
        let parts: Vec<&str> = key.split('.').collect();
        let found = match parts.as_slice() {
            [schema, table] if !self.dropped.contains(&key) => {
                session.warehouse.table(&self.registry, schema, table).await?
            }
            [schema, model, table] if !self.dropped.contains(&format!("{schema}.{model}")) => {
                let model = Name { schema: schema.to_string(), name: model.to_string() };
                session.warehouse.model_table(&self.registry, &model, table).await?
            }
            _ => None,
        };
        Ok(found.map(|table| Arc::new(table) as Arc<dyn TableProvider>))
    }

    /// The text of a view's query.
    pub fn view(&self, name: &str) -> Option<String> {
        if self.dropped.contains(name) {
            return None;
        }
        let published = || match &self.registry.current(Kind::View, name)?.details {
            Some(Details::View { view }) => Some(view.clone()),
            _ => None,
        };
        self.views.get(name).cloned().or_else(published)
    }

    async fn view_table(
        &self,
        session: &Session,
        name: String,
        query: String,
        within: &[String],
    ) -> Result<Arc<dyn TableProvider>> {
        if within.contains(&name) {
            return Err(JobError::Statement(format!("the view {name} reads itself")));
        }
        let within = [within, std::slice::from_ref(&name)].concat();
        let statement = DFParser::parse_sql(&query)?.pop_front();
        let statement = statement.ok_or_else(|| JobError::Damaged {
            what: format!("the view {name}"),
            reason: "it has no query".to_string(),
        })?;
        let plan = Box::pin(self.plan_within(session, statement, &within)).await;
        let plan =
            plan.map_err(|error| JobError::Statement(format!("in the view {name}: {error}")))?;
        Ok(Arc::new(ViewTable::new(plan, Some(query))))
    }

    /// A published state of a table in the past: `v3` is a version, anything else a time.
    async fn table_at(
        &self,
        session: &Session,
        name: &str,
        moment: &str,
    ) -> Result<WarehouseTable> {
        let version = moment.strip_prefix('v').and_then(|number| number.parse().ok());
        let moment = match version {
            Some(version) => Moment::Version(version),
            None => Moment::Time(parse_time(moment)?),
        };
        let version = self.version_at(name, &moment)?;
        let (schema, table) = name.split_once('.').unwrap_or((SCHEMA, name));
        let name = Name { schema: schema.to_string(), name: table.to_string() };
        Ok(session.warehouse.table_version(&name, version).await?)
    }

    /// The version that a table had at a moment.
    pub fn version_at(&self, name: &str, moment: &Moment) -> Result<u64> {
        let found = match moment {
            Moment::Version(version) => self.registry.version_of(Kind::Table, name, *version),
            Moment::Time(at) => self.registry.current_at(Kind::Table, name, *at),
        };
        let missing = || match moment {
            Moment::Version(version) => {
                format!("{name} has no version {version}; DESCRIBE HISTORY {name} lists them")
            }
            Moment::Time(_) => format!(
                "{name} did not exist at that time; DESCRIBE HISTORY {name} lists its versions"
            ),
        };
        found.map(|entry| entry.version).ok_or_else(|| JobError::Statement(missing()))
    }

    /// The versions of what a statement reads, for the record.
    pub fn versions(&self, references: &References) -> BTreeMap<String, String> {
        let version = |name: &String| {
            let published = |kind| self.registry.current(kind, name).map(|entry| entry.version);
            if self.external.contains_key(name) {
                "external".to_string()
            } else if self
                .staged
                .keys()
                .any(|key| key == name || key.starts_with(&format!("{name}.")))
            {
                "this run".to_string()
            } else {
                published(Kind::Table)
                    .or_else(|| published(Kind::Model))
                    .map_or("none".to_string(), |version| version.to_string())
            }
        };
        references.created_names().iter().map(|name| (name.clone(), version(name))).collect()
    }

    /// Plans a statement of the engine in this view.
    pub async fn plan(&self, session: &Session, statement: EngineStatement) -> Result<LogicalPlan> {
        self.plan_within(session, statement, &[]).await
    }

    /// Plans a query that is given as text.
    pub async fn plan_text(&self, session: &Session, query: &str) -> Result<LogicalPlan> {
        let statement = DFParser::parse_sql(query)?.pop_front();
        let none = || JobError::Statement("there is no statement".to_string());
        let planned = self.plan(session, statement.ok_or_else(none)?).await;
        planned.map_err(JobError::without_position)
    }

    async fn plan_within(
        &self,
        session: &Session,
        statement: EngineStatement,
        within: &[String],
    ) -> Result<LogicalPlan> {
        let references = References::of(&statement)?;
        let mut names = Names::default();
        let mut missing = Vec::new();
        for name in references.tables {
            match self.table_within(session, &name, within).await? {
                Some(table) => {
                    names.tables.insert(name, table);
                }
                None => missing.push(name.to_string()),
            }
        }
        for model in references.models {
            if let Some(tables) = self.recommender(session, &model).await? {
                names.models.insert(model, tables);
            }
        }
        for about in references.about {
            if let Some(answer) = introspection::about(session, self, &about.0, &about.1).await? {
                names.about.insert(about, answer);
            }
        }
        let planned = session.plan(statement, names).await;
        planned.map_err(|error| self.explain_missing(error, &missing))
    }

    /// Says of a table that there isn't which one may have been meant.
    fn explain_missing(&self, error: JobError, missing: &[String]) -> JobError {
        let JobError::Engine(engine) = &error else { return error };
        let text = engine.to_string();
        let found = missing.iter().find(|name| text.contains(&format!(".{name}' not found")));
        let (Some(name), Some(about)) = (found, engine.diagnostic()) else { return error };
        let published = self.registry.all_current();
        let published = published.iter().map(|entry| entry.name.as_str());
        let staged = self.staged.keys().chain(self.views.keys()).chain(self.external.keys());
        let meant = did_you_mean(name, published.chain(staged.map(String::as_str)));
        let text = format!("there is no table {name}{meant}");
        let error = DataFusionError::Plan(text).with_diagnostic(about.clone());
        JobError::Engine(error)
    }

    async fn recommender(&self, session: &Session, model: &str) -> Result<Option<ModelTables>> {
        let table = async |table: &str| -> Result<Option<WarehouseTable>> {
            let name = TableReference::parse_str(&format!("{model}.{table}"));
            let found = self.table(session, &name).await?;
            Ok(found.and_then(|table| table.downcast_ref::<WarehouseTable>().cloned()))
        };
        let tables = (table("user_factors").await?, table("item_factors").await?);
        let (Some(users), Some(items)) = tables else { return Ok(None) };
        Ok(Some(ModelTables { users, items }))
    }
}
