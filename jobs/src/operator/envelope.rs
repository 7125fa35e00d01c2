//! Deep plans on their way: parts of them travel as sealed bytes.
//!
//! Who decodes a message of protocol buffers follows its nesting only 100 levels down, and a plan has
//! two or three levels for each of its nodes: joins of twenty tables would not arrive. So a plan is cut
//! every few nodes. What is below a cut is encoded by itself, and to the message above it is only bytes,
//! which have no levels.

use bytes::BufMut;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, Result};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, replace_children_if_necessary,
};
use datafusion_proto::logical_plan::{AsLogicalPlan, LogicalExtensionCodec};
use datafusion_proto::physical_plan::AsExecutionPlan;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalExtensionNode, PhysicalPlanNode};
use std::fmt;
use std::sync::Arc;

/// Nodes of a plan between two cuts.
const NODES: usize = 12;

/// Starts the bytes of what is below a cut, in the place of a message of another codec. No message of
/// protocol buffers starts so.
const MAGIC: &[u8] = b"\x7fenvelope:";

/// A part of a logical plan that is encoded by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Hash)]
pub(super) struct EnvelopeNode(pub(super) LogicalPlan);

impl UserDefinedLogicalNodeCore for EnvelopeNode {
    fn name(&self) -> &str {
        "Envelope"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }

    fn schema(&self) -> &DFSchemaRef {
        self.0.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Envelope")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, _: Vec<LogicalPlan>) -> Result<Self> {
        Ok(self.clone())
    }
}

impl EnvelopeNode {
    /// Encodes the part, if that is what the node is.
    pub(super) fn encode(
        node: &Extension,
        codec: &dyn LogicalExtensionCodec,
        out: &mut Vec<u8>,
    ) -> Option<Result<()>> {
        let Self(part) = node.node.as_any().downcast_ref()?;
        let mut encode = || {
            let message = LogicalPlanNode::try_from_logical_plan(part, codec)?;
            out.extend_from_slice(MAGIC);
            message.try_encode(out)
        };
        Some(encode())
    }

    /// Decodes a part; `None` if the bytes are something else.
    pub(super) fn decode(
        bytes: &[u8],
        codec: &dyn LogicalExtensionCodec,
        context: &TaskContext,
    ) -> Option<Result<Extension>> {
        let part = bytes.strip_prefix(MAGIC)?;
        let decode = || {
            let message = LogicalPlanNode::try_decode(part)?;
            let part = message.try_into_logical_plan(context, codec)?;
            Ok(Extension { node: Arc::new(Self(part)) })
        };
        Some(decode())
    }
}

/// A logical plan as it travels, with cuts.
#[derive(Debug, Clone)]
pub struct DeepLogicalPlan(LogicalPlanNode);

impl AsLogicalPlan for DeepLogicalPlan {
    fn try_decode(bytes: &[u8]) -> Result<Self> {
        LogicalPlanNode::try_decode(bytes).map(Self)
    }

    fn try_encode<B: BufMut>(&self, out: &mut B) -> Result<()> {
        self.0.try_encode(out)
    }

    fn try_into_logical_plan(
        &self,
        context: &TaskContext,
        codec: &dyn LogicalExtensionCodec,
    ) -> Result<LogicalPlan> {
        whole(self.0.try_into_logical_plan(context, codec)?)
    }

    fn try_from_logical_plan(
        plan: &LogicalPlan,
        codec: &dyn LogicalExtensionCodec,
    ) -> Result<Self> {
        let (plan, _) = cut(plan)?;
        LogicalPlanNode::try_from_logical_plan(&plan, codec).map(Self)
    }
}

/// A plan with cuts, and how many nodes are above the deepest of them.
fn cut(plan: &LogicalPlan) -> Result<(LogicalPlan, usize)> {
    let mut deepest = 0;
    let mut inputs = Vec::new();
    for input in plan.inputs() {
        let (input, depth) = cut(input)?;
        deepest = deepest.max(depth);
        inputs.push(input);
    }
    // What ends a plan has to be what it is: only what is read by others is cut off.
    let below = match inputs.is_empty() {
        true => plan.clone(),
        false => plan.with_new_exprs(plan.expressions(), inputs)?,
    };
    match deepest + 1 >= NODES {
        true => Ok((LogicalPlan::Extension(Extension { node: Arc::new(EnvelopeNode(below)) }), 0)),
        false => Ok((below, deepest + 1)),
    }
}

/// The plan without cuts.
fn whole(plan: LogicalPlan) -> Result<LogicalPlan> {
    let opened = plan.transform_down_with_subqueries(|node| match &node {
        LogicalPlan::Extension(extension) => {
            match extension.node.as_any().downcast_ref::<EnvelopeNode>() {
                Some(EnvelopeNode(part)) => Ok(Transformed::yes(part.clone())),
                None => Ok(Transformed::no(node)),
            }
        }
        _ => Ok(Transformed::no(node)),
    })?;
    Ok(opened.data)
}

/// A part of a physical plan that is encoded by itself. It does nothing else.
#[derive(Debug)]
pub struct EnvelopeExec {
    part: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl EnvelopeExec {
    fn new(part: Arc<dyn ExecutionPlan>) -> Self {
        let properties = Arc::clone(part.properties());
        Self { part, properties }
    }

    /// Decodes a part by what `decode` makes of its message; `None` if the bytes are something else.
    pub(super) fn decode(
        bytes: &[u8],
        decode: impl FnOnce(&PhysicalPlanNode) -> Result<Arc<dyn ExecutionPlan>>,
    ) -> Option<Result<Arc<dyn ExecutionPlan>>> {
        let part = bytes.strip_prefix(MAGIC)?;
        let message = PhysicalPlanNode::try_decode(part);
        // The envelope stays around it: a scheduler knows a task's measurements by their nodes.
        let decoded = message.and_then(|message| decode(&message));
        Some(decoded.map(|part| Arc::new(Self::new(part)) as Arc<dyn ExecutionPlan>))
    }
}

impl DisplayAs for EnvelopeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvelopeExec")
    }
}

impl ExecutionPlan for EnvelopeExec {
    fn name(&self) -> &str {
        "EnvelopeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.part]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0))))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.part.execute(partition, context)
    }

    fn try_to_proto(
        &self,
        context: &datafusion::physical_plan::proto::ExecutionPlanEncodeCtx<'_>,
    ) -> Result<Option<PhysicalPlanNode>> {
        let message = context.encode_child(&self.part)?;
        let mut node = MAGIC.to_vec();
        message.try_encode(&mut node)?;
        let node = PhysicalExtensionNode { node, inputs: Vec::new() };
        Ok(Some(PhysicalPlanNode { physical_plan_type: Some(PhysicalPlanType::Extension(node)) }))
    }
}

/// Operators below which a plan can be cut: nothing looks for them right below another.
const CUTTABLE: &[&str] =
    &["AggregateExec", "CooperativeExec", "FilterExec", "ProjectionExec", "UnionExec"];

/// Cuts physical plans that would be too deep to travel.
#[derive(Debug)]
pub struct CutDeepPlans;

impl PhysicalOptimizerRule for CutDeepPlans {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // What a subquery has found is looked for in the message that it is in.
        if plan.exists(|node| Ok(node.name() == "ScalarSubqueryExec"))? {
            return Ok(plan);
        }
        cut_physical(plan).map(|(plan, _)| plan)
    }

    fn name(&self) -> &str {
        "cut_deep_plans"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A plan with cuts, and how many nodes are above the deepest of them.
fn cut_physical(plan: Arc<dyn ExecutionPlan>) -> Result<(Arc<dyn ExecutionPlan>, usize)> {
    let mut deepest = 0;
    let mut children = Vec::new();
    for child in plan.children() {
        let (child, depth) = cut_physical(Arc::clone(child))?;
        deepest = deepest.max(depth);
        children.push(child);
    }
    let cuttable = deepest + 1 >= NODES && CUTTABLE.contains(&plan.name());
    let plan = match children.is_empty() {
        true => plan,
        false => replace_children_if_necessary(plan, children)?,
    };
    match cuttable {
        true => Ok((Arc::new(EnvelopeExec::new(plan)), 0)),
        false => Ok((plan, deepest + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::{LogicalCodec, PhysicalCodec};
    use crate::superstep::Resident;
    use datafusion::logical_expr::{LogicalPlanBuilder, col, lit};
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;
    use datafusion_proto::logical_plan::DefaultLogicalExtensionCodec;
    use datafusion_proto::physical_plan::DefaultPhysicalExtensionCodec;

    /// A plan of as many filters, which nothing merges.
    fn deep(nodes: usize) -> LogicalPlan {
        let values = vec![vec![lit(1i64)], vec![lit(2i64)]];
        let mut plan = LogicalPlanBuilder::values(values).unwrap();
        for node in 0..nodes {
            plan = plan.filter(col("column1").not_eq(lit(node as i64 + 10))).unwrap();
            plan = plan.alias(format!("t{node}")).unwrap();
        }
        plan.build().unwrap()
    }

    #[tokio::test]
    async fn deep_plans_arrive_as_they_were() {
        let codec = LogicalCodec::new(Arc::new(DefaultLogicalExtensionCodec {}));
        let context = SessionContext::new();
        for nodes in [1, 5, 6, 7, 200] {
            let plan = deep(nodes);
            let mut bytes = Vec::new();
            DeepLogicalPlan::try_from_logical_plan(&plan, &codec)
                .unwrap()
                .try_encode(&mut bytes)
                .unwrap();
            let arrived = DeepLogicalPlan::try_decode(&bytes).unwrap();
            let arrived = arrived.try_into_logical_plan(&context.task_ctx(), &codec).unwrap();
            assert_eq!(arrived.to_string(), plan.to_string());
        }
        let mut plain = Vec::new();
        let node = LogicalPlanNode::try_from_logical_plan(&deep(200), &codec).unwrap();
        node.try_encode(&mut plain).unwrap();
        assert!(LogicalPlanNode::try_decode(&plain).is_err());
    }

    #[tokio::test]
    async fn deep_physical_plans_arrive_and_run() {
        let context = SessionContext::new();
        let joins: String = (1..60)
            .map(|n| format!(" JOIN (VALUES (1)) AS t{n}(x) ON t{n}.x = t{}.x", n - 1))
            .collect();
        let query = format!("SELECT sum(t0.x + t59.x) AS n FROM (VALUES (1)) AS t0(x){joins}");
        let plan = context.sql(&query).await.unwrap().create_physical_plan().await.unwrap();
        let plan = CutDeepPlans.optimize(plan, &ConfigOptions::default()).unwrap();
        let inner = Arc::new(DefaultPhysicalExtensionCodec {});
        let codec = PhysicalCodec::new(inner, Resident::default());
        let mut bytes = Vec::new();
        let message = PhysicalPlanNode::try_from_physical_plan(plan, &codec).unwrap();
        AsExecutionPlan::try_encode(&message, &mut bytes).unwrap();
        let message: PhysicalPlanNode = AsExecutionPlan::try_decode(&bytes).unwrap();
        let plan = message.try_into_physical_plan(&context.task_ctx(), &codec).unwrap();
        let rows = collect(plan, context.task_ctx()).await.unwrap();
        let shown = arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
        assert!(shown.contains("| 2 |"), "{shown}");
    }
}
