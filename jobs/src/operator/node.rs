//! The logical node.

use super::with_items::WithItems;
use crate::superstep::{Sink, Superstep};
use arrow::datatypes::SchemaRef;
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use nightshift_catalog::write::{FILES_SCHEMA, WriteTarget};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What an operator does, as plain data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Operator {
    /// Writes its input as the files of a table.
    WriteTable(WriteTarget),
    /// Writes its input to a training's folder.
    Sink(Sink),
    /// Runs one step on all blocks. It has no input.
    Superstep {
        /// What is done.
        step: Box<Superstep>,
        /// How much work each block is, compared with the others; empty if that isn't known. It decides how blocks are
        /// shared out, and goes no further than that.
        work: Vec<u64>,
    },
    /// Works on its input with a model's item factors.
    WithItems(WithItems),
}

impl Operator {
    fn schema(&self, input: Option<&LogicalPlan>) -> Result<SchemaRef> {
        match (self, input) {
            (Operator::WriteTable(_), Some(_)) => Ok(Arc::clone(&FILES_SCHEMA)),
            (Operator::Sink(sink), Some(_)) => Ok(sink.schema()),
            (Operator::Superstep { step, .. }, None) => Ok(step.kernel().schema()),
            (Operator::WithItems(with_items), Some(input)) => {
                Ok(with_items.work.schema(input.schema().field(0)))
            }
            _ => Err(DataFusionError::Internal(format!(
                "{} inputs for {self:?}",
                input.iter().len()
            ))),
        }
    }

    /// A step on blocks that are as much work as each other, as far as is known.
    pub fn superstep(step: Superstep) -> Self {
        Self::Superstep { step: Box::new(step), work: Vec::new() }
    }

    fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

/// An operator in a logical plan.
#[derive(Debug, Clone)]
pub struct OperatorNode {
    operator: Arc<Operator>,
    /// The operator in the form in which it travels, which also makes two nodes equal or not.
    json: Arc<str>,
    input: Option<LogicalPlan>,
    schema: DFSchemaRef,
}

impl OperatorNode {
    /// A node for an operator.
    pub fn new(operator: Operator, input: Option<LogicalPlan>) -> Result<Self> {
        let json = operator.to_json()?.into();
        Self::with_input(Arc::new(operator), json, input)
    }

    fn with_input(
        operator: Arc<Operator>,
        json: Arc<str>,
        input: Option<LogicalPlan>,
    ) -> Result<Self> {
        let schema = Arc::new(DFSchema::try_from(operator.schema(input.as_ref())?)?);
        Ok(Self { operator, json, input, schema })
    }

    /// The plan that consists of an operator and its input.
    pub fn plan(operator: Operator, input: Option<LogicalPlan>) -> Result<LogicalPlan> {
        let node = Arc::new(Self::new(operator, input)?);
        Ok(LogicalPlan::Extension(Extension { node }))
    }

    /// The operator.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// The form in which the operator travels.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The node, if that is what it is.
    pub fn of(node: &dyn UserDefinedLogicalNode) -> Option<&Self> {
        node.as_any().downcast_ref()
    }
}

impl PartialEq for OperatorNode {
    fn eq(&self, other: &Self) -> bool {
        (&self.json, &self.input) == (&other.json, &other.input)
    }
}

impl Eq for OperatorNode {}

impl Hash for OperatorNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.json, &self.input).hash(state);
    }
}

impl PartialOrd for OperatorNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.json.cmp(&other.json) {
            Ordering::Equal => self.input.partial_cmp(&other.input),
            order => Some(order),
        }
    }
}

impl UserDefinedLogicalNodeCore for OperatorNode {
    fn name(&self) -> &str {
        "Nightshift"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.input.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nightshift: {}", self.json)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        // A plan is rewritten some dozens of times before it is run.
        let (operator, json) = (Arc::clone(&self.operator), Arc::clone(&self.json));
        Self::with_input(operator, json, inputs.into_iter().next())
    }
}
