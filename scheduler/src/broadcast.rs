//! Joins whose smaller side is not to be broadcast.

use datafusion::common::JoinType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
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
            let returns_gathered_rows = !join.null_aware
                && matches!(
                    join.join_type(),
                    JoinType::Left
                        | JoinType::Full
                        | JoinType::LeftSemi
                        | JoinType::LeftAnti
                        | JoinType::LeftMark
                );
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
