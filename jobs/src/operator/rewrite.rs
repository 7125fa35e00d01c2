//! Rules about single operators of physical plans.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;

/// What takes the place of an operator whose inputs have been rewritten, in a session with this configuration.
pub type RewriteOperator =
    fn(Arc<dyn ExecutionPlan>, &ConfigOptions) -> Result<Transformed<Arc<dyn ExecutionPlan>>>;

/// A rule that looks at each operator by itself, from the leaves up, and keeps the schema.
#[derive(Debug, Clone, Copy)]
pub struct Rewrite {
    name: &'static str,
    operator: RewriteOperator,
}

impl Rewrite {
    /// A rule with a name.
    pub const fn new(name: &'static str, operator: RewriteOperator) -> Self {
        Self { name, operator }
    }
}

impl PhysicalOptimizerRule for Rewrite {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| (self.operator)(plan, config)).data()
    }

    fn name(&self) -> &str {
        self.name
    }

    fn schema_check(&self) -> bool {
        true
    }
}
