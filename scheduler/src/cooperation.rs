//! Tasks that can be stopped.

use datafusion::common::tree_node::Transformed;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use nightshift_jobs::operator::Rewrite;
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
pub(crate) const GIVE_WAY: Rewrite = Rewrite::new("give_way", |plan, _| {
    Ok(if EXPANDING.contains(&plan.name()) {
        Transformed::yes(Arc::new(CooperativeExec::new(plan)) as Arc<dyn ExecutionPlan>)
    } else {
        Transformed::no(plan)
    })
});

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Schema;
    use datafusion::common::config::ConfigOptions;
    use datafusion::physical_optimizer::PhysicalOptimizerRule;
    use datafusion::physical_plan::displayable;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::joins::CrossJoinExec;

    #[test]
    fn joins_give_way_wherever_they_are() {
        let empty = || Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
        let join = Arc::new(CrossJoinExec::new(empty(), empty()));
        let plan = Arc::new(CrossJoinExec::new(join, empty()));
        let plan = GIVE_WAY.optimize(plan, &ConfigOptions::default()).unwrap();
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        let names: Vec<_> =
            shown.split_whitespace().filter(|word| word.ends_with("Exec")).collect();
        let join = ["CooperativeExec", "CrossJoinExec"];
        assert_eq!(names, [&join[..], &join[..], &["EmptyExec"; 3]].concat(), "{shown}");
    }
}
