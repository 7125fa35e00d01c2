//! The operator that writes what it is given to a training's folder.

use super::blocks::{BLOCKS_SCHEMA, BlockWrite, write_blocks};
use super::prepare::{ENCODED_SCHEMA, Encode};
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as PlanResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Distribution, EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// What becomes of the rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Sink {
    /// Blocks.
    Blocks(BlockWrite),
    /// Segments.
    Segments(Encode),
}

impl Sink {
    /// What is returned.
    pub fn schema(&self) -> SchemaRef {
        match self {
            Sink::Blocks(_) => Arc::clone(&BLOCKS_SCHEMA),
            Sink::Segments(_) => Arc::clone(&ENCODED_SCHEMA),
        }
    }
}

/// Writes the rows of its input.
#[derive(Debug)]
pub struct SinkExec {
    sink: Sink,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl SinkExec {
    /// Writes the rows of `input`.
    pub fn new(sink: Sink, input: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(sink.schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Self { sink, input, properties }
    }

    /// What becomes of the rows.
    pub fn sink(&self) -> &Sink {
        &self.sink
    }
}

impl DisplayAs for SinkExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sink {
            Sink::Blocks(write) => {
                write!(f, "SinkExec: blocks={}, {:?}", write.cut.blocks(), write.content)
            }
            Sink::Segments(_) => write!(f, "SinkExec: segments"),
        }
    }
}

impl ExecutionPlan for SinkExec {
    fn name(&self) -> &str {
        "SinkExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![match self.sink {
            Sink::Blocks(_) => {
                let name = self.input.schema().field(0).name().clone();
                Distribution::KeyPartitioned(vec![Arc::new(Column::new(&name, 0))])
            }
            Sink::Segments(_) => Distribution::UnspecifiedDistribution,
        }]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> PlanResult<TreeNodeRecursion>,
    ) -> PlanResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(self.sink.clone(), children.swap_remove(0))))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> PlanResult<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let sink = self.sink.clone();
        let written = async move {
            match sink {
                Sink::Blocks(write) => write_blocks(&write, input, &context).await,
                Sink::Segments(encode) => encode.write(input, &context).await,
            }
        };
        let stream = futures::stream::once(written);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.sink.schema(), stream)))
    }
}
