//! Nightshift's own operators in DataFusion plans.
//!
//! A logical plan names an operator by [`Operator`], which is plain data: the client makes it, the
//! scheduler plans it, executors run it. There is one logical node for all of them, one planner that
//! turns it into the physical operator, and one codec for each side of the wire.

mod codec;
mod decompressed;
mod envelope;
mod node;
mod planner;
mod rewrite;
mod with_items;

pub use codec::{LogicalCodec, PhysicalCodec};
pub use decompressed::CARRY_COMPRESSION;
pub use envelope::DeepLogicalPlan;
pub use node::{Operator, OperatorNode};
pub use planner::OperatorPlanner;
pub use rewrite::{Rewrite, RewriteOperator};
pub use with_items::{
    FoldIn, INTERACTION_ITEM, INTERACTION_WEIGHT, WithItems, WithItemsExec, Work,
};
