//! Joins whose smaller side is not to be broadcast.

use crate::semi_joins::{PUSH_DOWN_SEMI_JOINS, partners};
use arrow::datatypes::{DataType, Field};
use datafusion::common::JoinType;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::Transformed;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{ExecutionPlan, replace_children_if_necessary};
use nightshift_jobs::operator::Rewrite;
use std::sync::Arc;

/// The rule that decides which side of a join is gathered in a hash table, and whether as a whole.
const JOIN_SELECTION: &str = "join_selection";

/// Makes hash joins partitioned that Ballista would make partitioned when it cuts the plan into stages: those
/// that would return rows of the gathered side, which each task of a distributed join has for itself, and
/// those whose gathered side may be too large, or whose size isn't known, as that of a table is of which
/// nothing is left.
///
/// Ballista does so too late: what is above such a join and was planned for one partition, like an
/// aggregation of everything, would be done in each of several. So it is done before partitions are planned.
const PARTITION_WHAT_IS_NOT_BROADCAST: Rewrite =
    Rewrite::new("partition_what_is_not_broadcast", |plan, config| {
        let Some(join) = plan.downcast_ref::<HashJoinExec>() else {
            return Ok(Transformed::no(plan));
        };
        let threshold = config.optimizer.hash_join_single_partition_threshold;
        // What cares for NULL can't be partitioned.
        let gathered = *join.partition_mode() == PartitionMode::CollectLeft && !join.null_aware;
        let returned = returns_gathered_rows(join.join_type());
        if !gathered || !returned && is_below(join.left(), threshold) {
            return Ok(Transformed::no(plan));
        }
        let mut partitioned = join.builder().with_partition_mode(PartitionMode::Partitioned);
        if returned && let Some(partners) = partners(join)? {
            let inputs = vec![Arc::clone(join.left()), partners];
            partitioned = partitioned.with_new_children(inputs)?;
        }
        Ok(Transformed::yes(Arc::new(partitioned.build()?) as Arc<dyn ExecutionPlan>))
    });

/// The rules of a session with those about joins in their place: after it is decided which side is
/// gathered, before partitions are planned.
pub(crate) fn with_rules_about_joins(
    rules: &[Arc<dyn PhysicalOptimizerRule + Send + Sync>],
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = rules.to_vec();
    let selection = rules.iter().position(|rule| rule.name() == JOIN_SELECTION);
    let at = selection.map_or(0, |at| at + 1);
    rules.insert(at, Arc::new(PARTITION_WHAT_IS_NOT_BROADCAST));
    rules.insert(at, Arc::new(PUSH_DOWN_SEMI_JOINS));
    rules
}

/// Whether a join can return rows of its gathered side that have found no partner on the other.
fn returns_gathered_rows(join_type: &JoinType) -> bool {
    matches!(
        join_type,
        JoinType::Left
            | JoinType::Full
            | JoinType::LeftSemi
            | JoinType::LeftAnti
            | JoinType::LeftMark
    )
}

/// Makes the joins without keys run in one task that would return rows of the gathered side.
///
/// Within one process the tasks of such a join tell each other which rows have found a partner. Ballista's
/// tasks can't, and each would return those that have found none with it. There are no keys to partition by.
///
/// This is done when all else has been planned. Ballista plans the distribution of rows again for each
/// stage, which takes away a gathering that nothing asks for: a limit without a limit asks for it.
pub(crate) const OUTER_LOOPS_IN_ONE_TASK: Rewrite =
    Rewrite::new("outer_loops_in_one_task", |plan, _| {
        let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() else {
            return Ok(Transformed::no(plan));
        };
        if !returns_gathered_rows(join.join_type()) {
            return Ok(Transformed::no(plan));
        }
        let left = Arc::clone(join.left());
        // Not only with several partitions: what is one here can be cut when the stage is built.
        let right = Arc::new(CoalescePartitionsExec::new(Arc::clone(join.right())));
        let right = Arc::new(GlobalLimitExec::new(right, 0, None));
        Ok(Transformed::yes(replace_children_if_necessary(plan, vec![left, right])?))
    });

/// Keeps the limit of a side that is sent to every task.
///
/// Where the partitions of that side are gathered, Ballista makes a stage of what is below, and forgets how
/// many rows were to be gathered; each partition has its own limit only.
pub(crate) const LIMIT_WHAT_IS_BROADCAST: Rewrite =
    Rewrite::new("limit_what_is_broadcast", |plan, _| {
        let Some(join) = plan.downcast_ref::<HashJoinExec>() else {
            return Ok(Transformed::no(plan));
        };
        let left = join.left();
        let limit = left.is::<CoalescePartitionsExec>().then(|| left.fetch()).flatten();
        if *join.partition_mode() != PartitionMode::CollectLeft || limit.is_none() {
            return Ok(Transformed::no(plan));
        }
        let left = Arc::new(GlobalLimitExec::new(Arc::clone(left), 0, limit));
        let right = Arc::clone(join.right());
        Ok(Transformed::yes(replace_children_if_necessary(plan, vec![left, right])?))
    });

/// Whether Ballista takes a plan for smaller than this many bytes.
fn is_below(plan: &Arc<dyn ExecutionPlan>, threshold: usize) -> bool {
    let Ok(statistics) = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new())
    else {
        return false;
    };
    let known =
        |number: &Precision<usize>| number.get_value().copied().filter(|number| *number > 0);
    // What it doesn't list is taken for a text.
    let listed = |data_type: &DataType| {
        use DataType::{Date32, Date64, Decimal128, Decimal256, Float32, Float64};
        data_type.is_integer()
            || matches!(data_type, Float32 | Float64 | Date32 | Date64)
            || matches!(data_type, Decimal128(..) | Decimal256(..))
    };
    let width = |field: &Arc<Field>| match field.data_type() {
        DataType::Boolean => 1,
        number if listed(number) => number.primitive_width().unwrap_or(TEXT_BYTES),
        _ => TEXT_BYTES,
    };
    let row = plan.schema().fields().iter().map(width).sum::<usize>().max(8);
    let bytes = known(&statistics.total_byte_size);
    let bytes = bytes.or_else(|| Some(known(&statistics.num_rows)?.saturating_mul(row)));
    bytes.is_some_and(|bytes| bytes < threshold)
}

/// Bytes that Ballista takes a text to have.
const TEXT_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::{SessionConfig, SessionContext};

    #[tokio::test]
    async fn a_side_of_unknown_size_is_not_gathered() {
        let config = SessionConfig::new().with_target_partitions(3);
        let state = SessionStateBuilder::new().with_default_features().with_config(config).build();
        let rules = with_rules_about_joins(state.physical_optimizers());
        let builder = SessionStateBuilder::new_from_existing(state);
        let state = builder.with_physical_optimizer_rules(rules).build();
        let context = SessionContext::new_with_state(state);
        for table in [
            "CREATE TABLE none AS SELECT column1 AS id FROM (VALUES (1)) AS v LIMIT 0",
            "CREATE TABLE some AS SELECT column1 AS id FROM (VALUES (1), (2)) AS v",
            "CREATE TABLE more AS SELECT column1 AS id FROM (VALUES (1), (2), (3)) AS v",
        ] {
            context.sql(table).await.unwrap().collect().await.unwrap();
        }
        for (table, partitioned) in [("none", true), ("some", false)] {
            let sql = format!("SELECT count(*) FROM {table} AS t JOIN more ON t.id = more.id");
            let plan = context.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
            let shown = displayable(plan.as_ref()).indent(false).to_string();
            assert_eq!(shown.contains("mode=Partitioned"), partitioned, "{shown}");
            assert_eq!(shown.contains("mode=CollectLeft"), !partitioned, "{shown}");
        }
    }
}
