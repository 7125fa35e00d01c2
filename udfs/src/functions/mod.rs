//! Nightshift's own SQL functions: usable alone, in any query, and evaluated on executors.
//!
//! One function a file. Each says in its [`Documentation`] what it computes and what it makes of
//! NULL, NaN and arguments that make no sense; the page of all of them is [`reference`].
//!
//! [`Documentation`]: datafusion::logical_expr::Documentation

mod als_gram;
mod als_solve;
mod arguments;
mod average_precision_at_k;
mod bm25;
mod ndcg_at_k;
mod pseudonymize;
mod ranking;
mod recall_at_k;
mod reference;
#[cfg(test)]
mod testing;
mod tf_idf;
mod time_decay;
mod top_k;
mod zorder;

pub use reference::reference;

use arrow::array::{Array, ArrayRef, BooleanArray};
use datafusion::error::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{AggregateUDF, EmitTo, GroupsAccumulator, ScalarUDF};
use std::sync::Arc;

/// The state of each row in a group of its own, which is what a partial aggregation hands on that finds
/// as many groups as rows.
fn states_of_rows<G: GroupsAccumulator + Default>(
    values: &[ArrayRef],
    filter: Option<&BooleanArray>,
) -> Result<Vec<ArrayRef>> {
    let rows = values.first().map_or(0, |column| column.len());
    let mut each = G::default();
    each.update_batch(values, &(0..rows).collect::<Vec<_>>(), filter, rows)?;
    each.state(EmitTo::All)
}

/// The functions of a row.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::new_from_impl(bm25::Bm25::default())),
        Arc::new(ScalarUDF::new_from_impl(pseudonymize::Pseudonymize::default())),
        Arc::new(ScalarUDF::new_from_impl(tf_idf::TfIdf::default())),
        Arc::new(ScalarUDF::new_from_impl(time_decay::TimeDecay::default())),
        Arc::new(ScalarUDF::new_from_impl(zorder::ZOrder::default())),
    ]
}

/// The functions of a group of rows.
pub fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    use average_precision_at_k::AveragePrecisionAtK;
    use ndcg_at_k::NdcgAtK;
    use ranking::RankingMeasure;
    use recall_at_k::RecallAtK;
    vec![
        Arc::new(AggregateUDF::new_from_impl(als_gram::AlsGram::default())),
        Arc::new(AggregateUDF::new_from_impl(als_solve::AlsSolve::default())),
        Arc::new(AggregateUDF::new_from_impl(RankingMeasure::<AveragePrecisionAtK>::default())),
        Arc::new(AggregateUDF::new_from_impl(RankingMeasure::<NdcgAtK>::default())),
        Arc::new(AggregateUDF::new_from_impl(RankingMeasure::<RecallAtK>::default())),
        Arc::new(AggregateUDF::new_from_impl(top_k::TopK::default())),
    ]
}

/// Adds the functions to those that a session, or a function registry that is made of one, has.
///
/// Sessions that plan and processes that run plans must both know them, since a plan names a
/// function and doesn't carry it.
pub fn with_functions(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    builder.scalar_functions().get_or_insert_default().extend(scalar_functions());
    builder.aggregate_functions().get_or_insert_default().extend(aggregate_functions());
    builder
}
