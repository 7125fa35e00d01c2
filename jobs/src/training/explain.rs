//! `EXPLAIN CREATE MODEL`: what a training would take, computed from counts, without training.

use super::als::iterations_of_states;
use super::options::{MatrixFactorization, ModelSpec, PageRank, model_spec, solver_flops};
use super::select::{no_rows, select};
use crate::introspection;
use crate::session::Session;
use crate::statement::CreateModel;
use crate::superstep::Partitioned;
use crate::view::View;
use crate::{JobError, Result};
use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use datafusion::catalog::TableProvider;
use datafusion::datasource::ViewTable;
use datafusion::logical_expr::LogicalPlan;
use std::sync::Arc;

/// Floating-point operations that a core is assumed to do in a second of solving.
const FLOPS_OF_A_CORE: f64 = 3e10;

/// Edges that a core is assumed to follow in a second of PageRank.
const EDGES_OF_A_CORE: f64 = 1e8;

/// Bytes of an entry on its way to its blocks, once by row and once by column: their numbers, and the weight
/// unless all are 1.
const ENTRY_BYTES: f64 = 8.0;
const WEIGHT_BYTES: f64 = 8.0;

/// Plans the rows that say what a training would take: `property`, `value` and `meaning`. Runs two
/// aggregate queries over the training query to that end.
pub async fn explain(
    session: &Session,
    view: &View,
    statement: &CreateModel,
) -> Result<LogicalPlan> {
    let spec = model_spec(statement)?;
    let plan = view.plan_query(session, &statement.query).await?;
    let selected = select(&statement.name, plan, &spec.columns())?;
    let training: Arc<dyn TableProvider> = Arc::new(ViewTable::new(selected, None));
    let count = async |sql: &str| -> Result<Vec<f64>> {
        let plan = session.plan_over(sql, &[("training", Arc::clone(&training))]).await?;
        let rows = session.collect(plan).await?;
        let row = rows.iter().find(|batch| batch.num_rows() > 0);
        let row = row.ok_or_else(|| JobError::Damaged {
            what: "the counts of the training query".to_string(),
            reason: "there are none".to_string(),
        })?;
        let number = |column: &ArrayRef| column.as_primitive::<Int64Type>().value(0) as f64;
        Ok(row.columns().iter().map(number).collect())
    };
    let properties = match &spec {
        ModelSpec::MatrixFactorization(spec) => {
            let users = count(
                r#"SELECT coalesce(CAST(sum(entries) AS BIGINT), 0), count(*) FROM
                   (SELECT "row", count(*) AS entries FROM training GROUP BY "row") AS users"#,
            )
            .await?;
            let items =
                count(r#"SELECT count(*) FROM (SELECT DISTINCT "column" FROM training) AS items"#)
                    .await?;
            match (users.as_slice(), items.as_slice()) {
                ([rows, users], [items]) if *rows > 0.0 => {
                    of_factorization(spec, *rows, *users, *items)
                }
                _ => return Err(no_rows(&statement.name)),
            }
        }
        ModelSpec::PageRank(spec) => {
            let edges = count("SELECT count(*) FROM training").await?;
            let nodes = count(
                r#"SELECT count(*) FROM (SELECT "row" FROM training UNION
                   SELECT "column" FROM training) AS nodes"#,
            )
            .await?;
            match (edges.as_slice(), nodes.as_slice()) {
                ([edges], [nodes]) if *edges > 0.0 => of_pagerank(spec, *edges, *nodes),
                _ => return Err(no_rows(&statement.name)),
            }
        }
    };
    let texts = |of: fn(&Property) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(properties.iter().map(of)))
    };
    let values = Float64Array::from_iter_values(properties.iter().map(|property| property.1));
    introspection::rows(&RecordBatch::try_from_iter([
        ("property", texts(|property| property.0)),
        ("value", Arc::new(values)),
        ("meaning", texts(|property| property.2)),
    ])?)
}

/// Name, value and meaning.
type Property = (&'static str, f64, &'static str);

fn blocks(count: f64, entries: f64) -> f64 {
    f64::from(Partitioned::new(count as u64, entries as u64).blocks())
}

fn of_factorization(
    spec: &MatrixFactorization,
    rows: f64,
    users: f64,
    items: f64,
) -> Vec<Property> {
    let factors = spec.factors as f64;
    let width = factors + if spec.bias { 1.0 } else { 0.0 };
    let (user_blocks, item_blocks) = (blocks(users, rows), blocks(items, rows));
    // New factors go into the next Gram matrix. Factors that must not be negative may take several decompositions.
    let solving = |count: f64| {
        solver_flops(spec.solver(rows, count), width, rows, count)
            + count * factors * (factors + 1.0)
    };
    let flops = (solving(users) + solving(items)).round();
    let state_bytes = 4.0 * width * (users + items);
    let block_bytes = 2.0 * 8.0 * rows + 8.0 * (users + user_blocks) + 8.0 * (items + item_blocks);
    let iterations = spec.max_iterations as f64;
    // Two states of the users and three of the items are there at the end of an iteration, if each half step is a job. If
    // not, those of a job may be there, and those of the one before, besides what it began with and what is written down.
    let of_two_jobs = (2 * iterations_of_states(state_bytes)).min(spec.max_iterations) as f64;
    let kept_states =
        (4.0 * width * (2.0 * users + 3.0 * items)).max((of_two_jobs + 2.0) * state_bytes);
    let exchanged = 2.0 * (ENTRY_BYTES + WEIGHT_BYTES) * rows;
    vec![
        ("rows", rows, "rows of the training query"),
        ("users", users, "different users"),
        ("items", items, "different items"),
        ("user_blocks", user_blocks, "tasks of the half step that solves users"),
        ("item_blocks", item_blocks, "tasks of the half step that solves items"),
        ("iterations", iterations, "iterations at most"),
        ("flops_per_iteration", flops, "floating-point operations of solving all users and items"),
        (
            "core_seconds",
            flops * iterations / FLOPS_OF_A_CORE,
            "arithmetic of all iterations at 30 GFLOP/s a core",
        ),
        (
            "shuffle_bytes",
            exchanged,
            "entries on their way through the warehouse to blocks before the first iteration",
        ),
        ("state_bytes", state_bytes, "factors of all users and items as written in an iteration"),
        (
            "bytes_moved_per_iteration",
            2.0 * state_bytes,
            "factors written and read with one executor; each further executor reads state_bytes more",
        ),
        ("block_bytes", block_bytes, "training data as blocks of both sides"),
        (
            "resident_bytes",
            block_bytes + state_bytes + 8.0 * factors * factors,
            "what one executor keeps in memory; several share the block_bytes among them",
        ),
        (
            "storage_bytes",
            (block_bytes + kept_states.max(exchanged)).max(1.5 * exchanged),
            "intermediate data besides ids in the warehouse at most",
        ),
    ]
}

fn of_pagerank(spec: &PageRank, edges: f64, nodes: f64) -> Vec<Property> {
    let most = spec.max_iterations as f64;
    let iterations = steps(spec.damping, spec.tolerance).min(most);
    let vectors = if spec.teleport_table.is_some() { 2.0 } else { 1.0 };
    let count = blocks(nodes, edges);
    let state_bytes = 8.0 * nodes;
    let weight_bytes = if spec.weight.is_some() { WEIGHT_BYTES } else { 0.0 };
    // Where edges have no weights, only how many leave a node is exchanged besides.
    let ways = if spec.weight.is_some() { 2.0 } else { 1.0 };
    let encoded = (ENTRY_BYTES + weight_bytes) * edges;
    let exchanged = ways * encoded;
    let block_bytes = (4.0 + weight_bytes) * edges + 8.0 * (nodes + count) + 8.0 * vectors * nodes;
    // A job begins with one and ends with one; what nodes pass along, as much again, is exchanged after the last step, after the
    // one before it, and at the end.
    let kept_states = 5.0 * state_bytes;
    vec![
        ("edges", edges, "rows of the training query"),
        ("nodes", nodes, "different nodes"),
        ("blocks", count, "tasks of a step"),
        (
            "iterations",
            iterations,
            "steps at most until the tolerance or max_iterations is reached",
        ),
        ("flops_per_iteration", 2.0 * edges + 8.0 * nodes, "floating-point operations of a step"),
        (
            "core_seconds",
            edges * iterations / EDGES_OF_A_CORE,
            "time of all steps at 100 million edges a second and core",
        ),
        (
            "shuffle_bytes",
            exchanged,
            "edges on their way through the warehouse to blocks before the first step",
        ),
        ("state_bytes", state_bytes, "ranks of all nodes as written in a step"),
        (
            "bytes_moved_per_iteration",
            2.0 * state_bytes,
            "ranks written and read with one executor; each further executor reads state_bytes more",
        ),
        ("block_bytes", block_bytes, "incoming edges as blocks and weights of nodes"),
        (
            "resident_bytes",
            block_bytes + 2.0 * state_bytes,
            "what one executor keeps in memory; several share the block_bytes among them",
        ),
        (
            "storage_bytes",
            (block_bytes + exchanged.max(kept_states)).max(encoded + exchanged),
            "intermediate data besides ids in the warehouse at most",
        ),
    ]
}

/// The steps after which the change guarantees the tolerance, whatever the graph: the first change is at
/// most 2, and each is at most `damping` of the one before.
fn steps(damping: f64, tolerance: f64) -> f64 {
    let wanted = tolerance * (1.0 - damping) / damping;
    if damping == 0.0 || wanted >= 2.0 {
        return 1.0;
    }
    1.0 + ((wanted / 2.0).ln() / damping.ln()).ceil()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_steps_is_enough_for_any_graph() {
        for (damping, tolerance) in [(0.5, 1e-3), (0.85, 1e-8), (0.99, 1e-12)] {
            let mut change: f64 = 2.0;
            let mut expected = 1.0;
            while nightshift_udfs::pagerank::error_bound(change, damping) > tolerance {
                change *= damping;
                expected += 1.0;
            }
            assert_eq!(steps(damping, tolerance), expected);
        }
        assert_eq!(steps(0.0, 1e-8), 1.0);
    }
}
