//! Tasks that can be stopped.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use std::sync::Arc;

/// Operators that can make any number of batches of one.
const EXPANDING: &[&str] = &[
    "CrossJoinExec",
    "HashJoinExec",
    "NestedLoopJoinExec",
    "PiecewiseMergeJoinExec",
    "SortMergeJoinExec",
    "UnnestExec",
];

/// Makes tasks give way between the batches of such operators.
///
/// A task is stopped where it gives way. The engine sees to it that tasks do so where they read, but
/// what aggregates the rows of a large join can be busy for hours between two batches that it reads,
/// and holds its core for so long after the job has been cancelled.
#[derive(Debug)]
pub(crate) struct GiveWay;

impl PhysicalOptimizerRule for GiveWay {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wrap = |plan: Arc<dyn ExecutionPlan>| {
            Ok(if EXPANDING.contains(&plan.name()) {
                Transformed::yes(Arc::new(CooperativeExec::new(plan)) as Arc<dyn ExecutionPlan>)
            } else {
                Transformed::no(plan)
            })
        };
        plan.transform_up(wrap).data()
    }

    fn name(&self) -> &str {
        "give_way"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::SessionContext;

    #[tokio::test]
    async fn joins_give_way_wherever_they_are() {
        let session = SessionContext::new();
        let sql =
            "SELECT count(*) FROM (VALUES (1), (2)) AS a(x) CROSS JOIN (VALUES (3), (4)) AS b(y)";
        let plan = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let plan = GiveWay.optimize(plan, &ConfigOptions::default()).unwrap();
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        let lines: Vec<_> = shown.lines().map(str::trim).collect();
        let join = lines.iter().position(|line| line.starts_with("CrossJoinExec")).unwrap();
        assert_eq!(lines[join - 1], "CooperativeExec", "{shown}");
    }
}
