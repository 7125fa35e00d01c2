//! Queries on Nightshift's functions, in this process: with several partitions, so that states of
//! aggregates are merged.

use super::with_functions;
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::Result;
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use std::sync::Arc;

fn config() -> SessionConfig {
    SessionConfig::new().with_target_partitions(3).with_batch_size(4)
}

fn context(config: SessionConfig) -> SessionContext {
    let builder = SessionStateBuilder::new().with_default_features().with_config(config);
    SessionContext::new_with_state(with_functions(builder).build())
}

/// The rows of a query, as text; NULL is `NULL`.
pub(super) fn sql(query: &str) -> Result<Vec<Vec<String>>> {
    over("none", vec![], query)
}

/// The rows of a query over a table of these partitions.
pub(super) fn over(
    table: &str,
    partitions: Vec<RecordBatch>,
    query: &str,
) -> Result<Vec<Vec<String>>> {
    run(config(), table, partitions, query)
}

fn run(
    config: SessionConfig,
    table: &str,
    partitions: Vec<RecordBatch>,
    query: &str,
) -> Result<Vec<Vec<String>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let batches = runtime.block_on(async {
        let context = context(config);
        if let Some(first) = partitions.first() {
            let fields = first
                .schema()
                .fields()
                .iter()
                .map(|f| f.as_ref().clone().with_nullable(true))
                .collect::<Vec<_>>();
            let schema = Arc::new(Schema::new(fields));
            let part = |batch: RecordBatch| {
                Ok(vec![RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec())?])
            };
            let parts = partitions.into_iter().map(part).collect::<Result<_>>()?;
            context.register_table(table, Arc::new(MemTable::try_new(schema, parts)?))?;
        }
        context.sql(query).await?.collect().await
    })?;
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<ArrayFormatter> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(row).to_string()).collect());
        }
    }
    Ok(rows)
}

/// The single value of a query.
pub(super) fn value(query: &str) -> String {
    let rows = sql(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    assert_eq!((rows.len(), rows[0].len()), (1, 1), "{query}");
    rows[0][0].clone()
}

/// The single value of a query, a number.
pub(super) fn number(query: &str) -> f64 {
    value(query).parse().unwrap()
}

/// What a query fails with.
pub(super) fn error(query: &str) -> String {
    match sql(query) {
        Ok(rows) => panic!("{query} returned {rows:?}"),
        Err(error) => error.to_string(),
    }
}

/// With groups as small as this the engine stops to aggregate partially: each row becomes a state.
#[test]
fn rows_can_become_states() {
    let mut skipping = config();
    let options = &mut skipping.options_mut().execution;
    options.skip_partial_aggregation_probe_rows_threshold = 1;
    options.skip_partial_aggregation_probe_ratio_threshold = 0.0;
    let query = "SELECT g, top_k(v, s, 3) FILTER (WHERE v <> 5), recall_at_k(v, s > 1, 40),
            ndcg_at_k(v, s, 60), average_precision_at_k(v, s > 1, 60), als_gram([s, 1]),
            als_solve([1], s, 1), als_solve([1], s, 1, 1, [7]) FILTER (WHERE v % 3 = 0)
        FROM (SELECT v, v % 40 AS g, v % 4 AS s FROM (SELECT unnest(generate_series(1, 100)) AS v))
        GROUP BY g ORDER BY g";
    let expected = sql(query).unwrap();
    assert_eq!(expected.len(), 40);
    assert_eq!(run(skipping, "none", vec![], query).unwrap(), expected);
}
