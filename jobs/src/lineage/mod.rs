//! Where data comes from: what each step of a run reads and makes, column by column where its plan tells.
//!
//! It is written down in the run's journal ([`crate::journal`]), and told to others in the form of OpenLineage
//! ([`events`]).

mod columns;
mod datasets;
mod delivered;
mod open_lineage;

pub use columns::{NameOf, Traced, trace};
pub use delivered::{forget, note_delivered, was_delivered};
pub use open_lineage::events;

use crate::external::located;
use crate::introspection::sql_type;
use crate::session::Session;
use crate::statement::{CreateModel, Insert, Located, References, Statement, reads};
use crate::training::{model_spec, table_names};
use crate::view::View;
use crate::{JobError, Result};
use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::Query;
use datasets::Datasets;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Columns with what they come from that are written down of a statement. One with more of them is told without.
const MOST: usize = 10_000;

/// How something comes from a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It is the column.
    Identity,
    /// It is computed from it, row by row.
    Transformation,
    /// It is computed from it, over several rows.
    Aggregation,
    /// Rows belong together by it.
    Join,
    /// Rows are put together by it.
    GroupBy,
    /// Rows are chosen by it.
    Filter,
    /// Rows are put into order by it.
    Sort,
    /// It says over which rows something is computed.
    Window,
    /// It says which of several values something is.
    Conditional,
    /// A model is trained on it.
    Training,
}

impl How {
    /// Whether values go into what comes from them, and don't only decide about it.
    pub fn is_direct(self) -> bool {
        self <= How::Aggregation
    }
}

/// A column that something comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The dataset that it is in.
    pub table: String,
    /// Its name.
    pub column: String,
    /// How, in one way or several.
    pub how: Vec<How>,
}

/// A column that is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnLineage {
    /// Its name.
    pub name: String,
    /// Its type, as SQL says it.
    pub data_type: String,
    /// What it comes from, as far as that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Source>,
}

/// What a statement reads and makes. A dataset is `schema.table`, `schema.model.table`, or the URL of files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// What it reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// What it makes or changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// The columns of what it makes, if they are known and it is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnLineage>,
    /// What all of it depends on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indirect: Vec<Source>,
}

impl Lineage {
    /// That of files which are given a name.
    pub fn of_files(location: String) -> Self {
        Self { inputs: vec![location], ..Self::default() }
    }

    /// What is not too much to write down.
    fn bounded(mut self) -> Self {
        let from = self.columns.iter().map(|column| column.from.len());
        if from.sum::<usize>() + self.indirect.len() > MOST {
            self.indirect.clear();
            self.columns.iter_mut().for_each(|column| column.from.clear());
        }
        self
    }
}

/// What a statement reads and makes in a view, which is what it was before the statement was executed. Relative
/// locations are relative to `folder`. `None` for one that moves no data. What can't be found out is left out.
pub async fn of(
    session: &Session,
    view: &View,
    statement: &Located,
    folder: Option<&Path>,
) -> Option<Lineage> {
    let outputs = outputs(&statement.statement, folder)?;
    let datasets = Datasets::of(session.warehouse().storage().url().as_str(), view);
    let inputs = match reads(&statement.statement) {
        Ok(references) => inputs(session, view, &datasets, &references).await,
        Err(error) => {
            tracing::debug!(%error, "what a statement reads could not be found out");
            BTreeSet::new()
        }
    };
    let lineage = Lineage { inputs: inputs.into_iter().collect(), outputs, ..Lineage::default() };
    match columns(session, view, &datasets, &statement.statement).await {
        Ok(Some(Traced { columns, indirect })) => {
            Some(Lineage { columns, indirect, ..lineage }.bounded())
        }
        Ok(None) => Some(lineage),
        Err(error) => {
            tracing::debug!(%error, "what columns come from could not be found out");
            Some(lineage)
        }
    }
}

/// What a statement makes or changes; `None` if it is about no data.
fn outputs(statement: &Statement, folder: Option<&Path>) -> Option<Vec<String>> {
    let table = match statement {
        // A check.
        Statement::Query(_) => return Some(Vec::new()),
        Statement::CreateTable(table) => &table.name,
        Statement::CreateView(view) => &view.name,
        Statement::Insert(insert) => &insert.table,
        Statement::Delete(delete) => &delete.table,
        Statement::Update(update) => &update.table,
        Statement::Merge(merge) => &merge.table,
        Statement::AddColumns { table, .. }
        | Statement::Restore { table, .. }
        | Statement::Optimize { table, .. } => table,
        Statement::CreateModel(model) => return Some(tables_of(model)),
        Statement::Copy(copy) => {
            let location = located(&copy.target, folder).ok();
            let location = location.map_or_else(|| copy.target.clone(), |url| url.to_string());
            return Some(vec![location.trim_end_matches('/').to_string()]);
        }
        _ => return None,
    };
    Some(vec![table.to_string()])
}

/// The tables of a model.
fn tables_of(model: &CreateModel) -> Vec<String> {
    match model_spec(model) {
        Ok(spec) => {
            table_names(&spec).iter().map(|table| format!("{}.{table}", model.name)).collect()
        }
        Err(_) => vec![model.name.to_string()],
    }
}

async fn inputs(
    session: &Session,
    view: &View,
    datasets: &Datasets,
    references: &References,
) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for name in &references.tables {
        match view.table(session, name).await {
            Ok(Some(table)) => found.extend(datasets.read(&table)),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%name, %error, "what a table reads could not be found out");
                found.insert(name.to_string());
            }
        }
    }
    for name in &references.models {
        match view.model(session, name).await {
            Ok(Some(model)) => {
                found.extend(model.tables.keys().map(|table| format!("{name}.{table}")));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(name, %error, "the tables of a model could not be found out");
                found.insert(name.clone());
            }
        }
    }
    found
}

/// What the columns come from that a statement makes; `None` if that is not a matter of one query.
async fn columns(
    session: &Session,
    view: &View,
    datasets: &Datasets,
    statement: &Statement,
) -> Result<Option<Traced>> {
    let query: &Query = match statement {
        Statement::CreateTable(table) => match &table.query {
            Some(query) => query,
            None => return Ok(None),
        },
        Statement::CreateView(view) => &view.query,
        Statement::Insert(insert) => &insert.source,
        Statement::CreateModel(model) => &model.query,
        _ => return Ok(None),
    };
    let plan = view.plan_query(session, query).await?;
    let traced = trace(&plan, &|scan| datasets.scanned(scan));
    match statement {
        Statement::Insert(insert) => inserted(session, view, insert, traced).await.map(Some),
        Statement::CreateModel(_) => Ok(Some(trained(traced))),
        _ => Ok(Some(traced)),
    }
}

/// The columns of a table to which rows are added, which have names of their own there.
async fn inserted(session: &Session, view: &View, insert: &Insert, rows: Traced) -> Result<Traced> {
    let name = TableReference::partial(insert.table.schema.as_str(), insert.table.name.as_str());
    let table = view.table(session, &name).await?;
    let table = table.ok_or_else(|| JobError::Statement(format!("there is no table {name}")))?;
    let schema = table.schema();
    let all = || schema.fields().iter().map(|field| field.name().clone()).collect();
    let given = if insert.columns.is_empty() { all() } else { insert.columns.clone() };
    let mut from: BTreeMap<String, Vec<Source>> =
        given.into_iter().zip(rows.columns.into_iter().map(|column| column.from)).collect();
    let column = |field: &std::sync::Arc<arrow::datatypes::Field>| ColumnLineage {
        name: field.name().clone(),
        data_type: sql_type(field.data_type()),
        from: from.remove(field.name()).unwrap_or_default(),
    };
    Ok(Traced { columns: schema.fields().iter().map(column).collect(), ..rows })
}

/// What a model depends on: all of what it is trained on goes into all of it.
fn trained(rows: Traced) -> Traced {
    let mut all: BTreeMap<(String, String), BTreeSet<How>> = BTreeMap::new();
    let sources = rows.columns.into_iter().flat_map(|column| column.from);
    for Source { table, column, .. } in sources {
        all.entry((table, column)).or_default().insert(How::Training);
    }
    for Source { table, column, how } in rows.indirect {
        all.entry((table, column)).or_default().extend(how);
    }
    let source = |((table, column), how): (_, BTreeSet<How>)| Source {
        table,
        column,
        how: how.into_iter().collect(),
    };
    Traced { columns: Vec::new(), indirect: all.into_iter().map(source).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(column: &str, how: &[How]) -> Source {
        Source { table: "x.t".to_string(), column: column.to_string(), how: how.to_vec() }
    }

    fn column(name: &str, from: Vec<Source>) -> ColumnLineage {
        ColumnLineage { name: name.to_string(), data_type: "BIGINT".to_string(), from }
    }

    #[test]
    fn a_model_is_made_of_all_that_it_is_trained_on() {
        let columns = vec![
            column("user", vec![source("u", &[How::Identity])]),
            column(
                "item",
                vec![source("i", &[How::Transformation]), source("u", &[How::Conditional])],
            ),
        ];
        let indirect = vec![source("day", &[How::Filter]), source("u", &[How::Join])];
        let found = trained(Traced { columns, indirect });
        let expected = [
            source("day", &[How::Filter]),
            source("i", &[How::Training]),
            source("u", &[How::Join, How::Training]),
        ];
        assert_eq!(found.indirect, expected);
        assert!(found.columns.is_empty());
    }

    #[test]
    fn too_much_is_not_written_down() {
        let from: Vec<_> = (0..200).map(|at| source(&format!("c{at}"), &[How::Identity])).collect();
        let lineage = |columns| Lineage {
            columns: (0..columns).map(|at| column(&format!("d{at}"), from.clone())).collect(),
            indirect: vec![source("c", &[How::Filter])],
            ..Lineage::default()
        };
        assert_eq!(lineage(40).bounded(), lineage(40));
        let bounded = lineage(60).bounded();
        assert_eq!((bounded.columns.len(), bounded.indirect.len()), (60, 0));
        assert!(bounded.columns.iter().all(|column| column.from.is_empty()));
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let lineage = Lineage {
            inputs: vec!["x.t".to_string()],
            outputs: vec!["x.u".to_string()],
            columns: vec![column("n", vec![source("c", &[How::Aggregation, How::GroupBy])])],
            indirect: Vec::new(),
        };
        let text = serde_json::to_string(&lineage).unwrap();
        let expected = "{\"inputs\":[\"x.t\"],\"outputs\":[\"x.u\"],\"columns\":[{\"name\":\"n\",\
                        \"data_type\":\"BIGINT\",\"from\":[{\"table\":\"x.t\",\"column\":\"c\",\
                        \"how\":[\"aggregation\",\"group_by\"]}]}]}";
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Lineage>(&text).unwrap(), lineage);
    }
}
