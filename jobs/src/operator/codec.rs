//! The form in which Nightshift's nodes travel: from client to scheduler as logical plans, from
//! scheduler to executors as physical ones. Everything else is handed on to the inner codec.

use super::decompressed::DecompressedExec;
use super::envelope::EnvelopeNode;
use super::node::{Operator, OperatorNode};
use super::with_items::{WithItemsExec, Work};
use crate::superstep::{ItemFiles, Resident, Sink, SinkExec, Superstep, SuperstepExec};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::datasource::file_format::FileFormatFactory;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, Extension, LogicalPlan, ScalarUDF, WindowUDF};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use nightshift_catalog::scan::{TableScanSpec, WarehouseTable};
use nightshift_catalog::write::{TableWriteExec, WriteTarget};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Starts every message of ours. Protocol buffers can't: it would be the field number 15 of a wire
/// type that doesn't exist.
const MAGIC: &[u8] = b"\x7fnightshift:";

fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<()> {
    out.extend_from_slice(MAGIC);
    serde_json::to_writer(out, value).map_err(|error| DataFusionError::External(Box::new(error)))
}

/// `None` if the message is somebody else's.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<Result<T>> {
    let json = bytes.strip_prefix(MAGIC)?;
    Some(serde_json::from_slice(json).map_err(|error| DataFusionError::External(Box::new(error))))
}

/// Logical plans: operator nodes and warehouse tables.
#[derive(Debug)]
pub struct LogicalCodec {
    inner: Arc<dyn LogicalExtensionCodec>,
}

impl LogicalCodec {
    /// A codec that hands on what it doesn't know.
    pub fn new(inner: Arc<dyn LogicalExtensionCodec>) -> Self {
        Self { inner }
    }
}

impl LogicalExtensionCodec for LogicalCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[LogicalPlan],
        context: &TaskContext,
    ) -> Result<Extension> {
        if let Some(part) = EnvelopeNode::decode(bytes, self, context) {
            return part;
        }
        match decode::<Operator>(bytes) {
            None => self.inner.try_decode(bytes, inputs, context),
            Some(operator) => {
                let node = OperatorNode::new(operator?, inputs.first().cloned())?;
                Ok(Extension { node: Arc::new(node) })
            }
        }
    }

    fn try_encode(&self, node: &Extension, out: &mut Vec<u8>) -> Result<()> {
        if let Some(encoded) = EnvelopeNode::encode(node, self, out) {
            return encoded;
        }
        match OperatorNode::of(node.node.as_ref()) {
            None => self.inner.try_encode(node, out),
            Some(node) => {
                out.extend_from_slice(MAGIC);
                out.extend_from_slice(node.json().as_bytes());
                Ok(())
            }
        }
    }

    fn try_decode_table_provider(
        &self,
        bytes: &[u8],
        name: &TableReference,
        schema: SchemaRef,
        context: &TaskContext,
    ) -> Result<Arc<dyn TableProvider>> {
        match decode::<TableScanSpec>(bytes) {
            None => self.inner.try_decode_table_provider(bytes, name, schema, context),
            Some(spec) => Ok(Arc::new(WarehouseTable::new(spec?, schema))),
        }
    }

    fn try_encode_table_provider(
        &self,
        name: &TableReference,
        table: Arc<dyn TableProvider>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        match table.downcast_ref::<WarehouseTable>() {
            None => self.inner.try_encode_table_provider(name, table, out),
            Some(table) => encode(&table.spec, out),
        }
    }

    fn try_decode_file_format(
        &self,
        bytes: &[u8],
        context: &TaskContext,
    ) -> Result<Arc<dyn FileFormatFactory>> {
        self.inner.try_decode_file_format(bytes, context)
    }

    fn try_encode_file_format(
        &self,
        out: &mut Vec<u8>,
        format: Arc<dyn FileFormatFactory>,
    ) -> Result<()> {
        self.inner.try_encode_file_format(out, format)
    }

    fn try_decode_udf(&self, name: &str, bytes: &[u8]) -> Result<Arc<ScalarUDF>> {
        self.inner.try_decode_udf(name, bytes)
    }

    fn try_encode_udf(&self, function: &ScalarUDF, out: &mut Vec<u8>) -> Result<()> {
        self.inner.try_encode_udf(function, out)
    }

    fn try_decode_udaf(&self, name: &str, bytes: &[u8]) -> Result<Arc<AggregateUDF>> {
        self.inner.try_decode_udaf(name, bytes)
    }

    fn try_encode_udaf(&self, function: &AggregateUDF, out: &mut Vec<u8>) -> Result<()> {
        self.inner.try_encode_udaf(function, out)
    }

    fn try_decode_udwf(&self, name: &str, bytes: &[u8]) -> Result<Arc<WindowUDF>> {
        self.inner.try_decode_udwf(name, bytes)
    }

    fn try_encode_udwf(&self, function: &WindowUDF, out: &mut Vec<u8>) -> Result<()> {
        self.inner.try_encode_udwf(function, out)
    }
}

/// A physical operator on its way to an executor.
#[derive(Serialize, Deserialize)]
enum Message {
    WriteTable(WriteTarget),
    Sink(Sink),
    Superstep(Box<Superstep>),
    WithItems(Work, ItemFiles),
    Decompressed(String),
}

/// Physical plans: Nightshift's operators. On an executor, decoding gives them what it keeps in
/// memory.
#[derive(Debug)]
pub struct PhysicalCodec {
    inner: Arc<dyn PhysicalExtensionCodec>,
    resident: Resident,
}

impl PhysicalCodec {
    /// A codec that hands on what it doesn't know.
    pub fn new(inner: Arc<dyn PhysicalExtensionCodec>, resident: Resident) -> Self {
        Self { inner, resident }
    }
}

impl PhysicalExtensionCodec for PhysicalCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(message) = decode::<Message>(bytes) else {
            return self.inner.try_decode(bytes, inputs, context, converter);
        };
        let [input] = inputs else {
            return Err(DataFusionError::Internal(format!("{} inputs, expected 1", inputs.len())));
        };
        let (input, resident) = (Arc::clone(input), self.resident.clone());
        Ok(match message? {
            Message::WriteTable(target) => Arc::new(TableWriteExec::new(target, input)),
            Message::Sink(sink) => Arc::new(SinkExec::new(sink, input)),
            Message::Superstep(step) => Arc::new(SuperstepExec::new(*step, resident, input)),
            Message::WithItems(work, files) => {
                Arc::new(WithItemsExec::new(work, files, resident, input))
            }
            Message::Decompressed(compression) => {
                Arc::new(DecompressedExec::new(compression.parse()?, input))
            }
        })
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        out: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let message = if let Some(write) = node.downcast_ref::<TableWriteExec>() {
            Message::WriteTable(write.target().clone())
        } else if let Some(write) = node.downcast_ref::<SinkExec>() {
            Message::Sink(write.sink().clone())
        } else if let Some(step) = node.downcast_ref::<SuperstepExec>() {
            Message::Superstep(Box::new(step.step().clone()))
        } else if let Some(exec) = node.downcast_ref::<WithItemsExec>() {
            Message::WithItems(exec.work().clone(), exec.files().clone())
        } else if let Some(scan) = node.downcast_ref::<DecompressedExec>() {
            Message::Decompressed(scan.compression().get_variant().to_string())
        } else {
            return self.inner.try_encode(node, out, converter);
        };
        encode(&message, out)
    }

    fn try_decode_udf(&self, name: &str, bytes: &[u8]) -> Result<Arc<ScalarUDF>> {
        self.inner.try_decode_udf(name, bytes)
    }

    fn try_encode_udf(&self, function: &ScalarUDF, out: &mut Vec<u8>) -> Result<()> {
        self.inner.try_encode_udf(function, out)
    }

    fn try_decode_udaf(&self, name: &str, bytes: &[u8]) -> Result<Arc<AggregateUDF>> {
        self.inner.try_decode_udaf(name, bytes)
    }

    fn try_encode_udaf(&self, function: &AggregateUDF, out: &mut Vec<u8>) -> Result<()> {
        self.inner.try_encode_udaf(function, out)
    }

    fn try_decode_udwf(&self, name: &str, bytes: &[u8]) -> Result<Arc<WindowUDF>> {
        self.inner.try_decode_udwf(name, bytes)
    }

    fn try_encode_udwf(&self, function: &WindowUDF, out: &mut Vec<u8>) -> Result<()> {
        self.inner.try_encode_udwf(function, out)
    }
}
