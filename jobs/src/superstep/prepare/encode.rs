//! The rows of a training query, checked and with numbers in the place of ids.

use super::ids::{IdEncoder, Keys};
use super::{Axis, halves};
use crate::superstep::layout::{Folder, numbers_to_bytes};
use crate::{JobError, Result};
use arrow::array::{Array, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use futures::StreamExt;
use nightshift_catalog::storage::Storage;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, LazyLock};
use uuid::Uuid;

/// Entries of a segment at most, and so what a task holds in memory.
pub const SEGMENT: usize = 1 << 22;

/// What a task returns: an [`Encoded`] in JSON.
pub static ENCODED_SCHEMA: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(vec![Field::new("encoded", DataType::Utf8, false)])));

/// How rows of a training query are encoded. They have the columns `row`, `column` and `weight`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Encode {
    /// Where segments go.
    pub folder: Folder,
    /// Whether weights can be negative.
    pub negative: bool,
    /// Entries of a segment at most.
    pub segment: usize,
}

/// A segment that was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Segment {
    /// Its name. A task that is run again gives its segments others.
    pub name: String,
    /// Its entries.
    pub entries: usize,
}

impl Segment {
    /// The object with the ids of an axis.
    pub(super) fn dictionary(&self, axis: Axis) -> String {
        format!("{}-{}.ids", self.name, axis.name())
    }

    /// The object with the numbers of these ids.
    pub(super) fn numbers(&self, axis: Axis) -> String {
        format!("{}-{}.numbers", self.name, axis.name())
    }

    /// The object with the entries.
    pub(super) fn entries(&self) -> String {
        format!("{}.entries", self.name)
    }
}

/// Rows without a meaning.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Wrong {
    /// How many.
    pub count: u64,
    /// Row, column and weight of one of them.
    pub example: Option<[String; 3]>,
}

/// What tasks have made of their rows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Encoded {
    /// All rows.
    pub rows: u64,
    /// The segments.
    pub segments: Vec<Segment>,
    /// The rows that were left out, by what is wrong with them: for [`Encoded::CHECKS`].
    pub wrong: [Wrong; 6],
}

impl Encoded {
    /// What can be wrong, and with which of row, column and weight.
    pub const CHECKS: [(usize, &str); 6] =
        [(0, "NULL"), (1, "NULL"), (2, "NULL"), (2, "NaN"), (2, "infinite"), (2, "negative")];

    /// Puts together what the tasks have returned.
    pub fn collect(batches: &[RecordBatch]) -> Result<Self> {
        let mut all = Self::default();
        for text in batches.iter().flat_map(|batch| batch.column(0).as_string::<i32>()).flatten() {
            let one: Self = serde_json::from_str(text).map_err(|error| JobError::Damaged {
                what: "what a task says of its segments".to_string(),
                reason: error.to_string(),
            })?;
            all.rows += one.rows;
            all.segments.extend(one.segments);
            for (all, one) in all.wrong.iter_mut().zip(one.wrong) {
                all.count += one.count;
                all.example = all.example.take().or(one.example);
            }
        }
        Ok(all)
    }

    /// The rows of a batch that can be used. Notes what is wrong with the others.
    fn check(&mut self, batch: RecordBatch, negative: bool) -> PlanResult<RecordBatch> {
        let weights = batch.column(2).as_primitive::<Float64Type>();
        // The largest weight that single precision holds.
        let plain = |weight: &f64| weight.abs() <= 3.4e38 && (negative || *weight >= 0.0);
        if batch.columns().iter().all(|column| column.null_count() == 0)
            && weights.values().iter().all(plain)
        {
            return Ok(batch);
        }
        let mut good = vec![true; batch.num_rows()];
        for (row, good) in good.iter_mut().enumerate() {
            let null = |column: usize| batch.column(column).is_null(row);
            let weight = (!null(2)).then(|| weights.value(row));
            let wrong = [
                null(0),
                null(1),
                null(2),
                weight.is_some_and(f64::is_nan),
                weight.is_some_and(|weight| weight.abs() > 3.4e38),
                weight.is_some_and(|weight| weight < 0.0) && !negative,
            ];
            for (noted, _) in self.wrong.iter_mut().zip(wrong).filter(|(_, wrong)| *wrong) {
                *good = false;
                noted.count += 1;
                if noted.example.is_none() {
                    let value = |column: usize| {
                        let value = ScalarValue::try_from_array(batch.column(column), row)?;
                        Ok::<_, DataFusionError>(value.to_string())
                    };
                    noted.example = Some([value(0)?, value(1)?, value(2)?]);
                }
            }
        }
        Ok(filter_record_batch(&batch, &BooleanArray::from(good))?)
    }
}

/// Weights that are not written yet.
pub(super) struct WeightBuffer {
    /// How many there are at most.
    most: usize,
    /// How many there are.
    count: usize,
    /// All of them, if one is not 1: most graphs have no others.
    values: Vec<f64>,
}

impl WeightBuffer {
    /// Room for at most so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, count: 0, values: Vec::new() }
    }

    /// Appends some.
    pub(super) fn push(&mut self, weights: &[f64]) {
        let plain = self.values.is_empty() && weights.iter().all(|weight| *weight == 1.0);
        if !plain {
            self.values.reserve_exact(self.most - self.values.len());
            self.values.resize(self.count, 1.0);
            self.values.extend_from_slice(weights);
        }
        self.count += weights.len();
    }

    /// Appends them in the form that is read, in words of 32 bits. None are left then.
    pub(super) fn finish(&mut self, out: &mut Vec<u32>) {
        match self.values.iter().all(|weight| f64::from(*weight as f32) == *weight) {
            true => out.extend(self.values.iter().map(|weight| (*weight as f32).to_bits())),
            false => out.extend(self.values.iter().flat_map(|weight| halves(weight.to_bits()))),
        }
        self.count = 0;
        self.values.clear();
    }
}

/// Entries that are not written yet.
struct Buffer {
    rows: IdEncoder,
    columns: IdEncoder,
    weights: WeightBuffer,
}

impl Buffer {
    /// Room for a segment. Memory is taken as it is filled, and not moved while it grows.
    fn new(schema: &Schema, segment: usize) -> Result<Self> {
        let encoder = |column: usize| IdEncoder::new(schema.field(column).data_type(), segment);
        let weights = WeightBuffer::new(segment);
        Ok(Self { rows: encoder(0)?, columns: encoder(1)?, weights })
    }

    fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows.push(batch.column(0))?;
        self.columns.push(batch.column(1))?;
        let weights: &Float64Array = batch.column(2).as_primitive();
        self.weights.push(weights.values());
        Ok(())
    }

    /// Bytes in memory until it is written: everything is there twice in the end, in its order and in the form in
    /// which it is written, with the numbers that ids have got.
    fn size(&self) -> usize {
        2 * (self.rows.size() + self.columns.size())
            + self.weights.count * 16
            + self.weights.values.len() * 16
    }

    /// The keys of both axes and the entries, in words of 32 bits. The buffer is empty then.
    fn finish(&mut self) -> ([Keys; 2], Vec<u32>) {
        let words = 2 * (self.weights.count + self.weights.values.len());
        let mut entries = Vec::with_capacity(words);
        let keys = [self.rows.finish(&mut entries), self.columns.finish(&mut entries)];
        self.weights.finish(&mut entries);
        (keys, entries)
    }
}

impl Encode {
    /// Encodes all rows of a partition.
    pub(in crate::superstep) async fn write(
        &self,
        mut input: SendableRecordBatchStream,
        context: &TaskContext,
    ) -> PlanResult<RecordBatch> {
        let reservation = MemoryConsumer::new("Encode").register(context.memory_pool());
        let folder = self.folder.open(&context.runtime_env())?;
        let mut buffer = Buffer::new(&input.schema(), self.segment)?;
        let mut encoded = Encoded::default();
        while let Some(batch) = input.next().await {
            let batch = batch?;
            encoded.rows += batch.num_rows() as u64;
            let batch = encoded.check(batch, self.negative)?;
            for first in (0..batch.num_rows()).step_by(self.segment) {
                let length = self.segment.min(batch.num_rows() - first);
                if buffer.weights.count + length > self.segment {
                    buffer = flush(buffer, &folder, &mut encoded).await?;
                }
                buffer.push(&batch.slice(first, length))?;
            }
            if reservation.try_resize(buffer.size()).is_err() {
                // Smaller segments do as well.
                buffer = flush(buffer, &folder, &mut encoded).await?;
                reservation.try_resize(0)?;
            }
        }
        flush(buffer, &folder, &mut encoded).await?;
        let text = serde_json::to_string(&encoded);
        let text = text.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let column = Arc::new(StringArray::from(vec![text]));
        Ok(RecordBatch::try_new(Arc::clone(&ENCODED_SCHEMA), vec![column])?)
    }
}

/// Writes what is in a buffer as a segment, and gives it back empty.
async fn flush(mut buffer: Buffer, folder: &Storage, encoded: &mut Encoded) -> Result<Buffer> {
    let entries = buffer.weights.count;
    if entries == 0 {
        return Ok(buffer);
    }
    let segment = Segment { name: Uuid::new_v4().simple().to_string(), entries };
    let finish = move || {
        let finished = buffer.finish();
        (buffer, finished)
    };
    let (buffer, (keys, entries)) = tokio::task::spawn_blocking(finish).await?;
    let [rows, columns] = keys.map(|keys| keys.to_dictionary());
    let [row_ids, column_ids] = [Axis::Row, Axis::Column].map(|axis| segment.dictionary(axis));
    let name = segment.entries();
    tokio::try_join!(
        folder.put(&row_ids, rows),
        folder.put(&column_ids, columns),
        folder.put(&name, numbers_to_bytes(entries)),
    )?;
    encoded.segments.push(segment);
    Ok(buffer)
}
