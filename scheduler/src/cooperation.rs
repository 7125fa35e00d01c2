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
    use arrow::datatypes::Schema;
    use datafusion::physical_plan::displayable;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::joins::CrossJoinExec;

    #[test]
    fn joins_give_way_wherever_they_are() {
        let empty = || Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
        let join = Arc::new(CrossJoinExec::new(empty(), empty()));
        let plan = Arc::new(CrossJoinExec::new(join, empty()));
        let plan = GiveWay.optimize(plan, &ConfigOptions::default()).unwrap();
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        let names: Vec<_> =
            shown.split_whitespace().filter(|word| word.ends_with("Exec")).collect();
        let join = ["CooperativeExec", "CrossJoinExec"];
        assert_eq!(names, [&join[..], &join[..], &["EmptyExec"; 3]].concat(), "{shown}");
    }
}
