//! Joins whose smaller side is not to be broadcast.

use datafusion::common::JoinType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::{ExecutionPlan, replace_children_if_necessary};
use std::sync::Arc;

/// The rule that decides which side of a join is gathered in a hash table, and whether as a whole.
const JOIN_SELECTION: &str = "join_selection";

/// Makes hash joins partitioned that would return rows of the gathered side.
///
/// The engine gathers a small side as a whole, which each task of a distributed join would do for itself,
/// and return its rows. Ballista therefore makes such joins partitioned when it cuts a plan into
/// stages, too late for what is above them: an aggregation over one partition stays one, and returns a
/// row for each of eight. So it is done before partitions are planned.
#[derive(Debug)]
pub(crate) struct PartitionOuterJoins;

impl PartitionOuterJoins {
    /// The rules of a session with this one in its place.
    pub(crate) fn among(
        rules: &[Arc<dyn PhysicalOptimizerRule + Send + Sync>],
    ) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
        let mut rules = rules.to_vec();
        let selection = rules.iter().position(|rule| rule.name() == JOIN_SELECTION);
        rules.insert(selection.map_or(0, |at| at + 1), Arc::new(Self));
        rules
    }
}

impl PhysicalOptimizerRule for PartitionOuterJoins {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partition = |plan: Arc<dyn ExecutionPlan>| {
            let Some(join) = plan.downcast_ref::<HashJoinExec>() else {
                return Ok(Transformed::no(plan));
            };
            // Ballista runs the anti joins that care for NULL in one task.
            let returns_gathered_rows = !join.null_aware && returns_gathered_rows(join.join_type());
            if *join.partition_mode() != PartitionMode::CollectLeft || !returns_gathered_rows {
                return Ok(Transformed::no(plan));
            }
            let join = join.builder().with_partition_mode(PartitionMode::Partitioned).build()?;
            Ok(Transformed::yes(Arc::new(join) as Arc<dyn ExecutionPlan>))
        };
        plan.transform_up(partition).data()
    }

    fn name(&self) -> &str {
        "partition_outer_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
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
#[derive(Debug)]
pub(crate) struct OuterLoopsInOneTask;

impl PhysicalOptimizerRule for OuterLoopsInOneTask {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let gather = |plan: Arc<dyn ExecutionPlan>| {
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
        };
        plan.transform_up(gather).data()
    }

    fn name(&self) -> &str {
        "outer_loops_in_one_task"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
