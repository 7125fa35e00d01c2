//! The last state of a training as rows, with the ids that the numbers stand for.

use super::exec::{Kernel, Task};
use super::layout::{Folder, Partitioned, append_numbers};
use super::prepare::NumberedIds;
use crate::Result;
use arrow::array::{
    ArrayRef, Float32Array, Float32Builder, Float64Array, Int32Builder, Int64Array, ListBuilder,
    RecordBatch, UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// A side of an ALS model: id, index, factors, bias if there is one, and for users the indexes of the
/// items they have interacted with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FactorsExport {
    /// The side's ids.
    pub ids: NumberedIds,
    /// How the side is cut.
    pub cut: Partitioned,
    /// Its factors.
    pub state: Folder,
    /// Factors of a row.
    pub factors: usize,
    /// Numbers of a row.
    pub width: usize,
    /// What is added to every bias: the mean of explicit feedback, on the users' side.
    pub offset: Option<f64>,
    /// The blocks of the side, to list each row's columns.
    pub seen: Option<Folder>,
}

fn list(name: &str, item: DataType) -> Field {
    Field::new(name, DataType::List(Arc::new(Field::new_list_field(item, true))), false)
}

#[async_trait]
impl Kernel for FactorsExport {
    fn name(&self) -> &'static str {
        "als-export"
    }

    fn blocks(&self) -> u32 {
        self.cut.blocks()
    }

    fn schema(&self) -> SchemaRef {
        let mut fields = vec![
            self.ids.field(),
            Field::new("index", DataType::Int64, false),
            list("factors", DataType::Float32),
            Field::new("bias", DataType::Float32, false),
        ];
        if self.seen.is_some() {
            fields.push(list("seen_items", DataType::Int32));
        }
        Arc::new(Schema::new(fields))
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        let range = self.cut.range(task.block);
        let ids = self.ids.read(task.runtime, range.clone()).await?;
        let bytes = self.state.open(task.runtime)?.get(&Folder::part(task.block)).await?;
        let mut part: Vec<f32> = Vec::new();
        let count = self.cut.rows(task.block) * self.width;
        append_numbers(&bytes, count, self.state.0.as_str(), &mut part)?;
        let mut factors = ListBuilder::new(Float32Builder::new());
        let offset = self.offset.unwrap_or(0.0);
        let mut biases = Vec::new();
        for row in part.chunks_exact(self.width) {
            factors.append_value(row[..self.factors].iter().map(|value| Some(*value)));
            let bias = row.get(self.factors).copied().map_or(0.0, f64::from);
            biases.push((bias + offset) as f32);
        }
        let mut columns: Vec<ArrayRef> = vec![
            ids,
            Arc::new(Int64Array::from_iter_values(range.map(|index| index as i64))),
            Arc::new(factors.finish()),
            Arc::new(Float32Array::from(biases)),
        ];
        if let Some(seen) = &self.seen {
            let block = task.csr::<f32>(seen).await?;
            let mut lists = ListBuilder::new(Int32Builder::new());
            for row in 0..block.rows() {
                let mut items = block.row(row).0.to_vec();
                items.dedup();
                lists.append_value(items.into_iter().map(|item| Some(item as i32)));
            }
            columns.push(Arc::new(lists.finish()));
        }
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }
}

/// Ranks for the vectors with these numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RankVectors {
    /// The ranks of each node, one for each vector.
    pub ranks: Folder,
    /// The numbers of the vectors.
    pub numbers: Range<u64>,
}

/// The ranks: id, number of the vector, and rank.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RanksExport {
    /// How the nodes are cut.
    pub cut: Partitioned,
    /// The nodes' ids.
    pub ids: NumberedIds,
    /// Their ranks.
    pub vectors: Vec<RankVectors>,
}

#[async_trait]
impl Kernel for RanksExport {
    fn name(&self) -> &'static str {
        "pagerank-export"
    }

    fn blocks(&self) -> u32 {
        self.cut.blocks() * self.vectors.len() as u32
    }

    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            self.ids.field(),
            Field::new("vector", DataType::Int64, false),
            Field::new("rank", DataType::Float64, false),
        ]))
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        let block = task.block % self.cut.blocks();
        let RankVectors { ranks, numbers } =
            &self.vectors[(task.block / self.cut.blocks()) as usize];
        let count = (numbers.end - numbers.start) as usize;
        let rows = self.cut.rows(block) * count;
        let ranks: Vec<f64> = ranks.numbers(task.runtime, &Folder::part(block), rows).await?;
        let mut ids = self.ids.read(task.runtime, self.cut.range(block)).await?;
        if count > 1 {
            let repeated = UInt32Array::from_iter_values((0..rows).map(|row| (row / count) as u32));
            ids = take(&ids, &repeated, None)?;
        }
        let vectors = numbers.clone().map(|number| number as i64).cycle().take(rows);
        let columns: Vec<ArrayRef> = vec![
            ids,
            Arc::new(Int64Array::from_iter_values(vectors)),
            Arc::new(Float64Array::from(ranks)),
        ];
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }
}
