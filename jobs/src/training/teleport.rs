//! Where the walks of PageRank start again: one distribution, or one for each topic.

use super::options::PageRank;
use super::prepare::Ids;
use super::{Training, quoted, total};
use crate::superstep::{Content, Distributions, Partitioned, Superstep, VectorSums};
use crate::{JobError, Result};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use std::ops::Range;
use std::sync::Arc;

/// Vectors that are iterated together. An edge is read once for all of them; more of them would need more memory, and
/// help little beside what the vectors themselves take.
const VECTORS: u64 = 16;

/// The table of teleport weights, checked, with its columns in quotes.
pub(super) struct Teleport {
    name: String,
    pub(super) table: Arc<dyn TableProvider>,
    node: String,
    weight: String,
    /// The topics that have a weight in the graph.
    pub(super) topics: Option<Topics>,
}

/// The values of `teleport_by` and their numbers, in order.
pub(super) struct Topics {
    /// The columns `topic` and `number`.
    pub(super) table: Arc<dyn TableProvider>,
    /// How many there are.
    pub(super) count: u64,
    /// The column in the table of teleport weights, in quotes.
    pub(super) by: String,
}

impl Topics {
    /// The numbers of those that are iterated together: each state's rows must have numbers of 32 bits.
    pub(super) fn batches(&self, nodes: u64) -> Vec<Range<u64>> {
        let most = VECTORS.min(u64::from(u32::MAX) / nodes.max(1)).max(1);
        let batch = |first: u64| first..(first + most).min(self.count);
        (0..self.count).step_by(most as usize).map(batch).collect()
    }
}

/// How the numbers of some vectors are cut, node by node, if the nodes are cut that way.
fn wide(cut: Partitioned, vectors: u64) -> Partitioned {
    Partitioned { count: cut.count * vectors, block_rows: cut.block_rows * vectors }
}

impl Training<'_> {
    fn teleport_error(&self, option: &str, reason: String) -> JobError {
        let (model, option) = (self.name.to_string(), option.to_string());
        JobError::Option { model, option, reason }
    }

    /// Finds the table of teleport weights, and checks the weights.
    pub(super) async fn teleport(&self, spec: &PageRank, ids: &Ids) -> Result<Option<Teleport>> {
        let Some(mut teleport) = self.teleport_columns(spec).await? else { return Ok(None) };
        let by = spec.teleport_by.as_deref();
        self.check_teleport(&teleport, by).await?;
        if let Some(by) = by {
            teleport.topics = Some(self.topics(&teleport, by, ids).await?);
        }
        Ok(Some(teleport))
    }

    /// Finds the table of teleport weights, and checks its columns.
    pub(super) async fn teleport_columns(&self, spec: &PageRank) -> Result<Option<Teleport>> {
        let Some(name) = &spec.teleport_table else { return Ok(None) };
        let option = |reason: String| self.teleport_error("teleport_table", reason);
        let found = self.view.table(self.session, &TableReference::parse_str(name)).await?;
        let table = found.ok_or_else(|| option(format!("there is no table {name}")))?;
        let schema = table.schema();
        let by = spec.teleport_by.as_deref();
        if let Some(by) = by.filter(|by| schema.field_with_name(by).is_err()) {
            let reason = format!("{name} has no column {by}");
            return Err(self.teleport_error("teleport_by", reason));
        }
        let mut others = schema.fields().iter().filter(|field| Some(field.name().as_str()) != by);
        let (Some(node), Some(weight)) = (others.next(), others.next()) else {
            return Err(option(format!("{name} needs two columns, node and weight")));
        };
        if !weight.data_type().is_numeric() {
            let reason = format!(
                "column {} of {name} is a {}, not a number",
                weight.name(),
                weight.data_type()
            );
            return Err(option(reason));
        }
        let (node, weight) = (quoted(node.name()), quoted(weight.name()));
        Ok(Some(Teleport { name: name.clone(), table, node, weight, topics: None }))
    }

    /// Refuses weights that have no meaning, and rows that belong to no topic.
    async fn check_teleport(&self, teleport: &Teleport, by: Option<&str>) -> Result<()> {
        let Teleport { name, node, weight, .. } = teleport;
        let tables = [("teleport", Arc::clone(&teleport.table))];
        let found = async |columns: &str, condition: String| {
            let sql = format!("SELECT {columns} FROM teleport WHERE {condition} LIMIT 1");
            let found = self.session.plan_over(&sql, &tables).await?;
            let found = self.session.collect(found).await?;
            let any = found.iter().any(|batch| batch.num_rows() > 0);
            let row = any.then(|| arrow::util::pretty::pretty_format_batches(&found));
            Ok::<_, JobError>(row.transpose()?)
        };
        let wrong = format!(
            "{weight} IS NULL OR isnan(CAST({weight} AS DOUBLE)) OR {weight} < 0 \
             OR CAST({weight} AS DOUBLE) = CAST('Infinity' AS DOUBLE)"
        );
        if let Some(row) = found(&format!("{node}, {weight}"), wrong).await? {
            let reason = format!("{name} has a weight that is no finite number from 0:\n{row}");
            return Err(self.teleport_error("teleport_table", reason));
        }
        let Some(by) = by else { return Ok(()) };
        let by = quoted(by);
        if let Some(row) = found(&format!("{node}, {by}"), format!("{by} IS NULL")).await? {
            let reason = format!("{name} has a row in which it is NULL:\n{row}");
            return Err(self.teleport_error("teleport_by", reason));
        }
        Ok(())
    }

    fn no_weight(&self, name: &str) -> JobError {
        let reason = format!("no node of the graph has a weight in {name}");
        self.teleport_error("teleport_table", reason)
    }

    async fn topics(&self, teleport: &Teleport, by: &str, ids: &Ids) -> Result<Topics> {
        let Teleport { table, node, weight, .. } = teleport;
        let by = quoted(by);
        let tables = [("teleport", Arc::clone(table)), ("ids", self.ids_table(ids).await?)];
        let sql = format!(
            "SELECT topic, CAST(row_number() OVER (ORDER BY topic) - 1 AS BIGINT) AS number \
             FROM (SELECT DISTINCT t.{by} AS topic FROM teleport AS t JOIN ids ON t.{node} = ids.id \
                   WHERE CAST(t.{weight} AS DOUBLE) > 0) AS topics"
        );
        let plan = self.session.plan_over(&sql, &tables).await?;
        let (table, count) = self.intermediate(plan, "topics").await?;
        if count == 0 {
            return Err(self.no_weight(&teleport.name));
        }
        let sql = format!("SELECT count(DISTINCT {by}) FROM teleport");
        let given = self.session.collect(self.session.plan_over(&sql, &tables).await?).await?;
        let given = given.iter().find(|batch| batch.num_rows() > 0);
        let given = given.map_or(0, |batch| batch.column(0).as_primitive::<Int64Type>().value(0));
        let missing = (given as u64).saturating_sub(count);
        if missing > 0 {
            let (have, get) = if missing == 1 { ("has", "gets") } else { ("have", "get") };
            self.progress.note(&format!(
                "{}: {missing} of {given} values of {by} {have} no weight in the graph, and {get} no ranks",
                self.name
            ));
        }
        Ok(Topics { table, count, by })
    }

    /// The distributions of some topics, or the only one. Nodes that the graph doesn't have don't count.
    pub(super) async fn distributions(
        &self,
        teleport: &Teleport,
        ids: &Ids,
        cut: Partitioned,
        batch: &Range<u64>,
    ) -> Result<Distributions> {
        let Teleport { table, node, weight, name, topics } = teleport;
        let tables = vec![("teleport", Arc::clone(table)), ("ids", self.ids_table(ids).await?)];
        let value = format!("CAST(t.{weight} AS DOUBLE)");
        let from = format!("teleport AS t JOIN ids ON t.{node} = ids.id");
        let what = (value.as_str(), from.as_str());
        let folder = format!("teleport-{}", batch.start);
        let made = self.vectors(&folder, what, tables, topics.as_ref(), cut, batch).await?;
        if made.sums.iter().any(|sum| !sum.is_finite()) {
            let reason = format!("the weights in {name} add up to more than a number can hold");
            return Err(self.teleport_error("teleport_table", reason));
        }
        match made.sums.iter().all(|sum| *sum > 0.0) {
            true => Ok(made),
            false => Err(self.no_weight(name)),
        }
    }

    /// Numbers of nodes, a vector for each topic of a batch: the values of a query FROM tables, among them `ids`, and `t`
    /// which has the topic's column.
    pub(super) async fn vectors(
        &self,
        folder: &str,
        (value, from): (&str, &str),
        mut tables: Vec<(&str, Arc<dyn TableProvider>)>,
        topics: Option<&Topics>,
        cut: Partitioned,
        batch: &Range<u64>,
    ) -> Result<Distributions> {
        let vectors = batch.end - batch.start;
        let mut row = "ids.index".to_string();
        let mut from = from.to_string();
        if let Some(Topics { table, by, .. }) = topics {
            tables.push(("topics", Arc::clone(table)));
            row = format!("ids.index * {vectors} + topics.number - {}", batch.start);
            from = format!(
                "{from} JOIN topics ON t.{by} = topics.topic \
                 AND topics.number >= {} AND topics.number < {}",
                batch.start, batch.end
            );
        }
        let sql = format!(
            r#"SELECT {row} AS "row", CAST(0 AS BIGINT) AS "column", {value} AS weight FROM {from}"#
        );
        let (cut_wide, content) = (wide(cut, vectors), Content::RowSums);
        let blocks = self.write_blocks(folder, &sql, &tables, cut_wide, content).await?;
        let (weights, vectors) = (blocks.folder, vectors as usize);
        let sums = VectorSums { cut, weights: weights.clone(), vectors };
        let sums = total(&self.superstep(Superstep::VectorSums(sums)).await?);
        Ok(Distributions { weights, sums })
    }
}
