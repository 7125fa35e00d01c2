//! The names that completion knows. They are fetched while others work: nobody waits for them, and if
//! they can't be fetched there are fewer of them.

use super::execution::Execution;
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use futures::TryStreamExt;
use nightshift_jobs::connection::{Connection, Outcome};
use nightshift_jobs::progress::Progress;
use nightshift_jobs::statement::parse;
use nightshift_jobs::{JobError, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::task::JoinHandle;

/// What there is in the warehouse, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Schemas.
    pub schemas: BTreeSet<String>,
    /// Columns, in their order, of tables and views, `schema.table` or `schema.model.table`.
    pub tables: BTreeMap<String, Vec<String>>,
    /// Models, `schema.model`.
    pub models: BTreeSet<String>,
    /// Functions.
    pub functions: BTreeSet<String>,
    /// Parameters that have values.
    pub parameters: BTreeSet<String>,
}

/// The names that are known now, and the work of getting to know more.
#[derive(Default)]
pub struct Known {
    names: Arc<RwLock<Names>>,
    fetching: Option<JoinHandle<()>>,
}

impl Known {
    /// What is known at any time.
    pub fn names(&self) -> Arc<RwLock<Names>> {
        Arc::clone(&self.names)
    }

    /// Says which parameters there are.
    pub fn set_parameters<'a>(&self, parameters: impl Iterator<Item = &'a String>) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.parameters = parameters.cloned().collect();
    }

    /// Fetches the names anew; what is being fetched is out of date.
    pub fn refresh(&mut self, execution: &Execution) {
        if let Some(fetching) = self.fetching.take() {
            fetching.abort();
        }
        let connection = &execution.connection;
        let session = connection.session().clone();
        let externals = connection.externals().clone();
        let known = Arc::clone(&self.names);
        self.fetching = Some(tokio::spawn(async move {
            let connection = Connection::new(session, None, Arc::new(Silent));
            match fetch(connection.with_externals(externals)).await {
                Ok(names) => {
                    let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
                    *known = Names { parameters: std::mem::take(&mut known.parameters), ..names };
                }
                // Whatever is wrong, the statements that are typed will say it better.
                Err(error) => tracing::debug!(%error, "names for completion are not known"),
            }
        }));
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(fetching) = self.fetching.take() {
            fetching.abort();
        }
    }
}

/// Nobody watches.
struct Silent;

impl Progress for Silent {
    fn step(&self, _: usize, _: usize, _: &str) {}
    fn iteration(&self, _: &str, _: usize, _: usize, _: &str, _: f64) {}
    fn note(&self, _: &str) {}
}

async fn fetch(mut connection: Connection) -> Result<Names> {
    let mut names = Names::default();
    let mut rows = async |sql: &str| texts(&mut connection, sql).await;
    let schemas = "SELECT schema_name FROM information_schema.schemata";
    names.schemas = rows(schemas).await?.into_iter().flatten().collect();
    let tables = "SELECT table_schema || '.' || table_name FROM information_schema.tables";
    for name in rows(tables).await?.into_iter().flatten() {
        names.tables.insert(name, Vec::new());
    }
    let functions = "SELECT DISTINCT name FROM system.functions";
    names.functions = rows(functions).await?.into_iter().flatten().collect();
    let models = "SELECT model FROM system.models";
    names.models = rows(models).await?.into_iter().flatten().collect();
    let columns = "SELECT table_schema || '.' || table_name, column_name \
                   FROM information_schema.columns ORDER BY 1, ordinal_position";
    for row in rows(columns).await? {
        if let [table, column] = row.as_slice() {
            names.tables.entry(table.clone()).or_default().push(column.clone());
        }
    }
    Ok(names)
}

/// The rows of a query whose columns are texts.
async fn texts(connection: &mut Connection, sql: &str) -> Result<Vec<Vec<String>>> {
    let none = || JobError::Statement("there is no statement".to_string());
    let statement = parse("names", sql)?.pop().ok_or_else(none)?;
    let outcome = connection.execute(&statement, std::future::pending()).await?;
    let Outcome::Rows(rows) = outcome else { return Ok(Vec::new()) };
    let batches: Vec<RecordBatch> = rows.try_collect().await?;
    let mut found = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| cast(column, &DataType::Utf8));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let values = columns.iter().map(|c| c.as_string::<i32>().value(row).to_string());
            found.push(values.collect());
        }
    }
    Ok(found)
}
