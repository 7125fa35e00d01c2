//! From the logical node to the physical operators.

use super::node::{Operator, OperatorNode};
use super::with_items::WithItemsExec;
use crate::cluster::Cores;
use crate::superstep::{Resident, SinkExec, SuperstepExec};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use nightshift_catalog::write::TableWriteExec;
use std::sync::Arc;

/// A planner that knows Nightshift's operators besides DataFusion's.
#[derive(Debug, Default)]
pub struct OperatorPlanner {
    resident: Resident,
}

#[async_trait]
impl QueryPlanner for OperatorPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let operators = Operators { resident: self.resident.clone() };
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(operators)]);
        planner.create_physical_plan(plan, session).await
    }
}

struct Operators {
    resident: Resident,
}

#[async_trait]
impl ExtensionPlanner for Operators {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = OperatorNode::of(node) else { return Ok(None) };
        let operator = node.operator();
        if let Operator::Superstep { step, work } = operator {
            let cores = session.config().get_extension::<Cores>();
            let cores = cores.map(|cores| cores.0).filter(|cores| *cores > 0);
            // Rows of a table go into as many files as others do; what is measured is gone through as fast as can be.
            let partitions = match step.kernel().makes_rows() {
                true => Some(session.config().target_partitions()),
                false => cores,
            };
            let (step, resident) = (step.as_ref().clone(), self.resident.clone());
            let plan = SuperstepExec::over_all_blocks(step, resident, partitions, work)?;
            return Ok(Some(Arc::new(plan)));
        }
        let missing = || DataFusionError::Internal(format!("no input for {}", node.json()));
        let input = Arc::clone(inputs.first().ok_or_else(missing)?);
        Ok(Some(match operator {
            Operator::WriteTable(target) => Arc::new(TableWriteExec::new(target.clone(), input)),
            Operator::Sink(sink) => Arc::new(SinkExec::new(sink.clone(), input)),
            Operator::WithItems(with_items) => {
                let files = with_items.item_files(session.runtime_env()).await?;
                let resident = self.resident.clone();
                Arc::new(WithItemsExec::new(with_items.work.clone(), files, resident, input))
            }
            Operator::Superstep { .. } => return Err(missing()),
        }))
    }
}
