//! The driver of PageRank.

use super::options::PageRank;
use super::prepare::{Ids, TrainingData};
use super::select::data_error;
use super::{Trained, Training, total};
use crate::superstep::{
    Axis, Content, Folder, PageRankGraph, PageRankInitialize, PageRankStep, Partitioned,
    RanksExport, Superstep,
};
use crate::{JobError, Result};
use datafusion::common::TableReference;
use datafusion::logical_expr::LogicalPlan;
use nightshift_udfs::csr::Duplicates;
use nightshift_udfs::pagerank::error_bound;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// The last state, and for each step the change with the bound of the error, and how long it took.
struct Iterated {
    state: Folder,
    history: Vec<Vec<f64>>,
    seconds: Vec<f64>,
}

impl Training<'_> {
    pub(super) async fn pagerank(&self, spec: &PageRank, plan: LogicalPlan) -> Result<Trained> {
        let data = self.training_data(plan, &spec.columns()).await?;
        let [source, target] = &data.types;
        if source != target {
            let reason = format!(
                "columns {} and {} are a {source} and a {target}: cast one to the type of the other",
                spec.source, spec.target
            );
            return Err(data_error(self.name, reason));
        }
        let ids = self.number(&data, &[Axis::Row, Axis::Column], "nodes").await?;
        let graph = self.graph(spec, &data, &ids).await?;
        let published = match spec.warm_start {
            true => self.published_ranks(&ids, graph.cut).await?,
            false => None,
        };
        let Iterated { state, history, seconds } = self.iterate(spec, &graph, published).await?;

        let export = RanksExport { cut: graph.cut, ranks: state };
        let sql = "SELECT ids.id AS node, e.rank FROM export AS e JOIN ids ON e.index = ids.index";
        let tables = [("ids", Arc::clone(&ids.table))];
        let plan = self.plan_export(Superstep::RanksExport(export), sql, &tables).await?;
        let mut made = BTreeMap::new();
        made.insert("ranks".to_string(), self.write("ranks", plan).await?);
        let info = self.write_training_info(&["change", "error_bound"], &history).await?;
        made.insert("training_info".to_string(), info);
        let bound = history.last().and_then(|row| row.get(1)).copied().unwrap_or(f64::NAN);
        let metrics = BTreeMap::from([
            ("nodes".to_string(), ids.count as f64),
            ("edges".to_string(), data.rows as f64),
            ("iterations".to_string(), history.len() as f64),
            ("error_bound".to_string(), bound),
            ("converged".to_string(), if bound <= spec.tolerance { 1.0 } else { 0.0 }),
        ]);
        Ok(Trained { tables: made, metrics, iteration_seconds: seconds })
    }

    async fn graph(
        &self,
        spec: &PageRank,
        data: &TrainingData,
        ids: &Ids,
    ) -> Result<PageRankGraph> {
        let cut = Partitioned::new(ids.count, data.rows);
        let weighted = spec.weight.is_some();
        let content = if weighted { Content::Double(Duplicates::Add) } else { Content::Ones };
        let ways = [
            ("incoming", Axis::Column, cut, content),
            ("out-weights", Axis::Row, cut, Content::RowSums),
        ];
        let [incoming, out_weights] = self.blocks(data, ways).await?;
        let teleport = match &spec.teleport_table {
            None => None,
            Some(table) => Some(self.teleport(table, ids, cut).await?),
        };
        Ok(PageRankGraph {
            cut,
            incoming: incoming.folder,
            weighted,
            out_weights: out_weights.folder,
            teleport,
        })
    }

    /// Teleport weights by node, and their sum. Nodes that the graph doesn't have don't count.
    async fn teleport(&self, name: &str, ids: &Ids, cut: Partitioned) -> Result<(Folder, f64)> {
        let option = |reason: String| JobError::Option {
            model: self.name.to_string(),
            option: "teleport_table".to_string(),
            reason,
        };
        let found = self.view.table(self.session, &TableReference::parse_str(name)).await?;
        let table = found.ok_or_else(|| option(format!("there is no table {name}")))?;
        let schema = table.schema();
        let (Some(node), Some(weight)) = (schema.fields().first(), schema.fields().get(1)) else {
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
        let (node, weight) = (super::quoted(node.name()), super::quoted(weight.name()));
        let tables = [("teleport", table), ("ids", Arc::clone(&ids.table))];
        let sql = format!(
            "SELECT {node}, {weight} FROM teleport WHERE {weight} IS NULL OR isnan(CAST({weight} AS DOUBLE)) \
             OR {weight} < 0 OR CAST({weight} AS DOUBLE) = CAST('Infinity' AS DOUBLE) LIMIT 1"
        );
        let wrong = self.session.collect(self.session.plan_over(&sql, &tables).await?).await?;
        if wrong.iter().any(|batch| batch.num_rows() > 0) {
            let row = arrow::util::pretty::pretty_format_batches(&wrong)?;
            return Err(option(format!(
                "{name} has a weight that is no finite number from 0:\n{row}"
            )));
        }
        let sql = format!(
            r#"SELECT ids.index AS "row", CAST(0 AS BIGINT) AS "column", CAST(t.{weight} AS DOUBLE) AS weight
               FROM teleport AS t JOIN ids ON t.{node} = ids.id"#
        );
        let blocks = self.write_blocks("teleport", &sql, &tables, cut, Content::RowSums).await?;
        let sum = blocks.sum();
        if !sum.is_finite() {
            return Err(option(format!(
                "the weights in {name} add up to more than a number can hold"
            )));
        }
        if sum == 0.0 {
            return Err(option(format!("no node of the graph has a weight in {name}")));
        }
        Ok((blocks.folder, sum))
    }

    /// Steps until the ranks are as close to exact as asked, from `published` ranks and their sum or
    /// from the teleport distribution.
    async fn iterate(
        &self,
        spec: &PageRank,
        graph: &PageRankGraph,
        published: Option<(Folder, f64)>,
    ) -> Result<Iterated> {
        let mut state = self.rank_state(0);
        let first = PageRankInitialize { graph: graph.clone(), state: state.clone(), published };
        let mut totals = total(&self.superstep(Superstep::PageRankInitialize(first)).await?);
        let (mut history, mut seconds) = (Vec::new(), Vec::new());
        loop {
            let started = Instant::now();
            let iteration = history.len() + 1;
            let next = self.rank_state(iteration);
            let step = PageRankStep {
                graph: graph.clone(),
                damping: spec.damping,
                dangling_mass: totals[1],
                from: state,
                to: next.clone(),
            };
            totals = total(&self.superstep(Superstep::PageRankStep(step)).await?);
            let bound = error_bound(totals[0], spec.damping);
            history.push(vec![totals[0], bound]);
            seconds.push(started.elapsed().as_secs_f64());
            let name = self.name.to_string();
            self.progress.iteration(&name, iteration, spec.max_iterations, "error bound", bound);
            state = next;
            if bound <= spec.tolerance {
                return Ok(Iterated { state, history, seconds });
            }
            if iteration == spec.max_iterations {
                self.progress.note(&format!(
                    "{name} did not converge: after {iteration} iterations the error is at most \
                     {bound:.1e}, asked was {:.1e}; raise max_iterations or tolerance",
                    spec.tolerance
                ));
                return Ok(Iterated { state, history, seconds });
            }
            if iteration > 1 {
                self.remove(&format!("state/{:05}", iteration - 2)).await?;
            }
        }
    }

    fn rank_state(&self, iteration: usize) -> Folder {
        self.folder(&format!("state/{iteration:05}"))
    }
}
