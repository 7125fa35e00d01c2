//! A model's item factors in an executor's memory, in the forms in which they are used.

use super::resident::Resident;
use crate::{JobError, Result};
use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, Int64Type};
use datafusion::execution::runtime_env::RuntimeEnv;
use nightshift_catalog::storage::Storage;
use nightshift_udfs::als::{self, Feedback};
use nightshift_udfs::similar_items::Directions;
use nightshift_udfs::top_k::{Catalogue, Items};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use url::Url;

/// The table `item_factors` of a model version: its folder and its files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ItemFiles {
    /// The table's folder.
    pub table: Url,
    /// Names of the files within it.
    pub files: Vec<String>,
}

impl ItemFiles {
    /// The name of one form of these factors among what an executor keeps.
    fn name(&self, form: &str) -> String {
        format!("{form}:{}:{}", self.table, self.files.join(","))
    }

    /// The factors in the order of the items' dense numbers.
    pub async fn items(&self, resident: &Resident, runtime: &RuntimeEnv) -> Result<Arc<Items>> {
        let read = async {
            let items = self.read(runtime).await?;
            let bytes = (items.factors.len() + items.biases.len()) * 4;
            Ok((items, bytes))
        };
        resident.get(self.name("items"), read).await
    }

    /// The items as the best of them are found for users.
    pub async fn catalogue(
        &self,
        resident: &Resident,
        runtime: &RuntimeEnv,
    ) -> Result<Arc<Catalogue>> {
        let read = async {
            let items = self.read(runtime).await?;
            let catalogue = tokio::task::spawn_blocking(move || Catalogue::new(items)).await?;
            let bytes = catalogue.size();
            Ok((catalogue, bytes))
        };
        resident.get(self.name("catalogue"), read).await
    }

    /// The factors scaled to the length 1.
    pub async fn directions(
        &self,
        resident: &Resident,
        runtime: &RuntimeEnv,
    ) -> Result<Arc<Directions>> {
        let read = async {
            let items = self.read(runtime).await?;
            let directions = tokio::task::spawn_blocking(move || Directions::of(items)).await?;
            let bytes = directions.size();
            Ok((directions, bytes))
        };
        resident.get(self.name("directions"), read).await
    }

    /// The factors as the side that stays fixed in a half step.
    pub async fn fixed(
        &self,
        resident: &Resident,
        runtime: &RuntimeEnv,
        feedback: Feedback,
    ) -> Result<Arc<FixedItems>> {
        let form = if feedback.has_bias() { "fixed-with-bias" } else { "fixed" };
        let read = async {
            let items = self.items(resident, runtime).await?;
            let fixed =
                tokio::task::spawn_blocking(move || FixedItems::of(&items, feedback)).await?;
            let bytes = fixed.rows.len() * 4 + fixed.gram.len() * 8;
            Ok((fixed, bytes))
        };
        resident.get(self.name(form), read).await
    }

    async fn read(&self, runtime: &RuntimeEnv) -> Result<Items> {
        let table = Storage::of_session(runtime, &self.table)?;
        let mut rows: Vec<(i64, Vec<f32>, f32)> = Vec::new();
        for file in &self.files {
            let bytes = table.get(file).await?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes);
            let damaged = |reason: String| JobError::Damaged {
                what: format!("{}{file}", table.url()),
                reason,
            };
            let reader = reader.and_then(|builder| builder.build());
            for batch in reader.map_err(|error| damaged(error.to_string()))? {
                let batch = batch?;
                let column = |name: &str| {
                    batch.column_by_name(name).ok_or_else(|| damaged(format!("no column {name}")))
                };
                let indexes = column("item_index")?.as_primitive::<Int64Type>();
                let factors = column("factors")?.as_list::<i32>();
                let biases = column("bias")?.as_primitive::<Float32Type>();
                for row in 0..batch.num_rows() {
                    let values = factors.value(row).as_primitive::<Float32Type>().values().to_vec();
                    rows.push((indexes.value(row), values, biases.value(row)));
                }
            }
        }
        rows.sort_unstable_by_key(|row| row.0);
        let width = rows.first().map_or(1, |row| row.1.len());
        let factors: Vec<f32> = rows.iter().flat_map(|row| row.1.iter().copied()).collect();
        let biased = rows.iter().any(|row| row.2 != 0.0);
        let biases = if biased { rows.iter().map(|row| row.2).collect() } else { Vec::new() };
        Ok(Items { factors, biases, width })
    }
}

/// The item side of a model, ready to solve users against.
#[derive(Debug, Clone)]
pub struct FixedItems {
    /// One row of [`Feedback::width`] numbers for each item.
    pub rows: Vec<f32>,
    /// The Gram matrix of the factors; empty for explicit feedback, which has no use for it.
    pub gram: Vec<f64>,
    /// How many items there are.
    pub count: usize,
}

impl FixedItems {
    fn of(items: &Items, feedback: Feedback) -> Self {
        let factors = items.width;
        let count = items.factors.len() / factors;
        let gram = match feedback {
            Feedback::Implicit { .. } => als::gram(&items.factors, factors, factors),
            Feedback::Explicit { .. } => Vec::new(),
        };
        let mut rows = Vec::with_capacity(count * feedback.width(factors));
        for (item, row) in items.factors.chunks_exact(factors).enumerate() {
            rows.extend_from_slice(row);
            if feedback.has_bias() {
                rows.push(items.biases.get(item).copied().unwrap_or(0.0));
            }
        }
        Self { rows, gram, count }
    }
}
