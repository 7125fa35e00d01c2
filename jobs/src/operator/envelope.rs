//! Deep logical plans on their way: parts of them travel as sealed bytes.
//!
//! Who decodes a message of protocol buffers follows its nesting only 100 levels down, and a plan has
//! two or three levels for each of its nodes: joins of twenty tables would not arrive. So a plan is cut
//! every few nodes. What is below a cut is encoded by itself, and to the message above it is only bytes,
//! which have no levels. Physical plans need no cuts: each stage travels by itself, and Ballista plans
//! wrongly around nodes that it doesn't know.

use bytes::BufMut;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchemaRef, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion_proto::logical_plan::{AsLogicalPlan, LogicalExtensionCodec};
use datafusion_proto::protobuf::LogicalPlanNode;
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
        // Most plans are not deep, and travel as they are.
        if depth(plan) < NODES {
            return LogicalPlanNode::try_from_logical_plan(plan, codec).map(Self);
        }
        let (plan, _) = cut(plan.clone())?;
        LogicalPlanNode::try_from_logical_plan(&plan, codec).map(Self)
    }
}

/// A plan with cuts, and how many nodes are above the deepest of them.
fn cut(plan: LogicalPlan) -> Result<(LogicalPlan, usize)> {
    let mut deepest = 0;
    let plan = plan.map_children(|input| {
        let (input, depth) = cut(input)?;
        deepest = deepest.max(depth);
        Ok(Transformed::yes(input))
    })?;
    match deepest + 1 >= NODES {
        true => {
            let node = Arc::new(EnvelopeNode(plan.data));
            Ok((LogicalPlan::Extension(Extension { node }), 0))
        }
        false => Ok((plan.data, deepest + 1)),
    }
}

/// How many nodes a plan has above the deepest of its inputs.
fn depth(plan: &LogicalPlan) -> usize {
    plan.inputs().into_iter().map(depth).max().unwrap_or(0) + 1
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::LogicalCodec;
    use datafusion::logical_expr::{LogicalPlanBuilder, col, lit};
    use datafusion::prelude::SessionContext;
    use datafusion_proto::logical_plan::DefaultLogicalExtensionCodec;

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

    #[test]
    fn deep_plans_arrive_as_they_were() {
        // As deep as they are, they are taken apart where the stack is large.
        let deep = std::thread::Builder::new().stack_size(crate::statement::STACK);
        deep.spawn(plans_arrive).unwrap().join().unwrap();
    }

    fn plans_arrive() {
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
}
