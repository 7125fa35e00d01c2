//! What the names of statements stand for: one consistent view of the warehouse.

use crate::external::{ExternalTable, Externals};
use crate::introspection;
use crate::session::{CATALOG, SCHEMA, Session};
use crate::statement::{Moment, References, parse_time, with_queries};
use crate::suggestion::did_you_mean;
use crate::table_functions::{Model, Models};
use crate::{JobError, Result};
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider, TableProvider,
};
use datafusion::common::TableReference;
use datafusion::datasource::ViewTable;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::{DFParser, Statement as EngineStatement};
use datafusion::sql::sqlparser::ast::{self, Query};
use nightshift_catalog::registry::{Details, Kind, ModelDetails, Registry};
use nightshift_catalog::scan::WarehouseTable;
use nightshift_catalog::warehouse::Name;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The name under which everybody can read what was published, when and by which run.
const REGISTRY: &str = "system.registry";

/// The tables and models that a statement's names stand for.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) tables: HashMap<TableReference, Arc<dyn TableProvider>>,
    pub(crate) models: Models,
    pub(crate) about: HashMap<(String, String), LogicalPlan>,
}

impl Names {
    pub(crate) fn catalogs(&self) -> PlanResult<Arc<MemoryCatalogProviderList>> {
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
    registry: Arc<Registry>,
    staged: BTreeMap<String, WarehouseTable>,
    /// What is known of the models that the run has trained.
    models: BTreeMap<String, ModelDetails>,
    /// Queries that the run has given names to.
    views: BTreeMap<String, String>,
    /// Names that the run has given up.
    dropped: BTreeSet<String>,
    external: Externals,
}

impl View {
    /// What is published now, and files that are read in place.
    pub async fn now(session: &Session, external: Externals) -> Result<Self> {
        Ok(Self::of(session.warehouse().registry().await?, external))
    }

    /// What was published after a publication.
    pub async fn as_of(session: &Session, publication: u64) -> Result<Self> {
        let registry = session.warehouse().registry().await?.as_of(publication);
        Ok(Self::of(Arc::new(registry), Externals::new()))
    }

    fn of(registry: Arc<Registry>, external: Externals) -> Self {
        Self {
            registry,
            staged: BTreeMap::new(),
            models: BTreeMap::new(),
            views: BTreeMap::new(),
            dropped: BTreeSet::new(),
            external,
        }
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

    /// Puts a trained model over the published one; its tables are staged by themselves.
    pub fn stage_model(&mut self, name: String, details: ModelDetails) {
        self.models.insert(name, details);
    }

    /// The same view with what is published of a model, whatever the run has made of it.
    #[must_use]
    pub fn without_model(&self, name: &str) -> Self {
        let mut view = self.clone();
        view.staged.retain(|key, _| !key.starts_with(&format!("{name}.")));
        view.models.remove(name);
        view
    }

    /// The same view with what is published of a table, whatever the run has made of it.
    #[must_use]
    pub fn without_table(&self, name: &str) -> Self {
        let mut view = self.clone();
        view.staged.remove(name);
        view
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
        self.models.remove(name);
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
            let table = session.warehouse().registry_table(&self.registry).await?;
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
                session.warehouse().table(&self.registry, schema, table).await?
            }
            [schema, model, table] if !self.dropped.contains(&format!("{schema}.{model}")) => {
                let model = Name { schema: schema.to_string(), name: model.to_string() };
                session.warehouse().model_table(&self.registry, &model, table).await?
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
        Ok(session.warehouse().table_version(&name, version).await?)
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

    /// Plans a query that is a part of a statement.
    pub async fn plan_query(&self, session: &Session, query: &Query) -> Result<LogicalPlan> {
        let query = ast::Statement::Query(Box::new(query.clone()));
        self.plan(session, EngineStatement::Statement(Box::new(query))).await
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
        let statement = with_queries(statement)?;
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
        for name in references.models {
            if let Some(model) = self.model(session, &name).await? {
                names.models.found.insert(name, model);
            }
        }
        names.models.names = self.model_names();
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
        let Some(name) = found else { return error };
        let published = self.registry.all_current();
        let published = published.iter().map(|entry| entry.name.as_str());
        let staged = self.staged.keys().chain(self.views.keys()).chain(self.external.keys());
        let meant = did_you_mean(name, published.chain(staged.map(String::as_str)));
        let plan = DataFusionError::Plan(format!("there is no table {name}{meant}"));
        JobError::Engine(match engine.diagnostic() {
            Some(place) => plan.with_diagnostic(place.clone()),
            None => plan,
        })
    }

    /// The model of a name, `schema.name`, if there is one.
    pub async fn model(&self, session: &Session, name: &str) -> Result<Option<Model>> {
        if let Some(details) = self.models.get(name) {
            let within = format!("{name}.");
            let tables = self.staged.iter().filter_map(|(key, table)| {
                Some((key.strip_prefix(&within)?.to_string(), table.clone()))
            });
            let (name, details) = (name.to_string(), details.clone());
            return Ok(Some(Model { name, details, tables: tables.collect() }));
        }
        let Some(entry) = self.registry.current(Kind::Model, name) else { return Ok(None) };
        let Some((schema, model)) = name.split_once('.') else { return Ok(None) };
        let Some(details) = entry.model().filter(|_| !self.dropped.contains(name)) else {
            return Ok(None);
        };
        let whole = Name { schema: schema.to_string(), name: model.to_string() };
        let mut tables = BTreeMap::new();
        for table in entry.tables.keys() {
            let found = session.warehouse().model_table(&self.registry, &whole, table).await?;
            tables.extend(found.map(|found| (table.clone(), found)));
        }
        Ok(Some(Model { name: name.to_string(), details: details.clone(), tables }))
    }

    /// The names of all models.
    fn model_names(&self) -> Vec<String> {
        let published = self.registry.all_current().into_iter();
        let published = published.filter(|entry| entry.kind == Kind::Model);
        let published = published.map(|entry| entry.name.clone());
        let names = published.filter(|name| !self.dropped.contains(name));
        names.chain(self.models.keys().cloned()).collect()
    }
}
