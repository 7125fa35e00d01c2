//! Scans of compressed text files, on their way to executors.
//!
//! The engine plans how a scan's files are compressed and leaves it out when the plan travels: an
//! executor would take the compressed bytes for text. So an operator above the scan carries it.

use super::rewrite::Rewrite;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// The files of a scan, and how they are read.
fn config_of(scan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    let source: &dyn Any = scan.downcast_ref::<DataSourceExec>()?.data_source().as_ref();
    source.downcast_ref()
}

/// A scan that decompresses the files that it reads, wherever it arrives.
#[derive(Debug)]
pub struct DecompressedExec {
    compression: FileCompressionType,
    scan: Arc<dyn ExecutionPlan>,
}

impl DecompressedExec {
    /// The scan of files that are compressed so.
    pub(super) fn new(compression: FileCompressionType, scan: Arc<dyn ExecutionPlan>) -> Self {
        let scan = match config_of(&scan) {
            Some(config) => DataSourceExec::from_data_source(
                FileScanConfigBuilder::from(config.clone())
                    .with_file_compression_type(compression)
                    .build(),
            ),
            None => scan,
        };
        Self { compression, scan }
    }

    /// How the files are compressed.
    pub(super) fn compression(&self) -> FileCompressionType {
        self.compression
    }
}

impl DisplayAs for DecompressedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DecompressedExec: compression={}", self.compression.get_variant())
    }
}

impl ExecutionPlan for DecompressedExec {
    fn name(&self) -> &str {
        "DecompressedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.scan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.scan]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
        Ok(Arc::new(Self::new(self.compression, children.swap_remove(0))))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.scan.execute(partition, context)
    }
}

/// Puts the operator above the scans that need it; the last rule of plans that travel.
pub const CARRY_COMPRESSION: Rewrite = Rewrite::new("carry_compression", |plan, _| {
    let compression = config_of(&plan).map(|config| config.file_compression_type);
    Ok(match compression.filter(FileCompressionType::is_compressed) {
        Some(compression) => {
            let scan = Arc::new(DecompressedExec::new(compression, plan));
            Transformed::yes(scan as Arc<dyn ExecutionPlan>)
        }
        None => Transformed::no(plan),
    })
});
