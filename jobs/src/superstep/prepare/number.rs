//! Ids from all segments, numbered in their order.

use super::encode::Segment;
use super::ids::{IdType, Keys};
use super::{Axis, damaged};
use crate::superstep::exec::{Kernel, Task, measures_batch};
use crate::superstep::layout::{Folder, Partitioned};
use crate::{JobError, Result};
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{StreamExt, TryStreamExt};
use nightshift_udfs::dictionary::{Numbers, Strings, places, union, unite_numbers};
use rayon::ThreadPool;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Objects that are read or written at the same time.
const AT_ONCE: usize = 16;

/// Writes the different ids of some axes in their order, and the numbers that the ids of each segment have got.
/// Measures: how many ids there are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Number {
    /// Where the segments are.
    pub folder: Folder,
    /// The segments.
    pub segments: Vec<Segment>,
    /// The axes that share these numbers.
    pub axes: Vec<Axis>,
    /// The ids.
    pub ids: NumberedIds,
}

/// Ids in the order of their numbers: one object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NumberedIds {
    /// The folder of the object.
    pub folder: Folder,
    /// The object's name.
    pub name: String,
    /// The type of the ids.
    pub id_type: IdType,
}

impl NumberedIds {
    /// The column of ids.
    pub fn field(&self) -> Field {
        // A type that can't be read is an error of `read`.
        let id_type = self.id_type.data_type().unwrap_or(DataType::Null);
        Field::new("id", id_type, false)
    }

    /// The ids with some numbers.
    pub async fn read(&self, runtime: &RuntimeEnv, numbers: Range<u64>) -> Result<ArrayRef> {
        let folder = self.folder.open(runtime)?;
        let numeric = self.id_type.is_number()?;
        let keys = Keys::read(&folder, &self.name, numbers, numeric).await?;
        keys.to_array(&self.id_type)
    }
}

/// How many times what is read of keys is in memory while they are united.
const COPIES: usize = 4;

/// Bytes of a key, and of its place, while it is looked up.
const KEY_BYTES: usize = 12;

/// The ids of all, and where those of each are among them. `None` if some are missing, which can't be. By the threads of
/// the pool that it is called in.
fn number(dictionaries: Vec<Keys>) -> Option<(Keys, Vec<Numbers>)> {
    let (mut numbers, mut strings) = (Vec::new(), Vec::new());
    for dictionary in dictionaries {
        match dictionary {
            Keys::Numbers(keys) => numbers.push(keys),
            Keys::Strings(keys) => strings.push(keys),
        }
    }
    if strings.is_empty() {
        let (all, found) = unite_numbers(&numbers)?;
        return Some((Keys::Numbers(all), found));
    }
    let all = union(strings.iter().map(|strings| strings.iter().collect()).collect());
    let places = |list: &Strings| places(list.iter(), &all).map(Numbers::of_places);
    let found = strings.par_iter().map(places).collect::<Option<_>>()?;
    Some((Keys::Strings(all.into_iter().collect()), found))
}

#[async_trait]
impl Kernel for Number {
    fn name(&self) -> &'static str {
        "number"
    }

    fn blocks(&self) -> u32 {
        1
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        let folder = &self.folder.open(task.runtime)?;
        let started = Instant::now();
        let numeric = self.ids.id_type.is_number()?;
        let reservation = &MemoryConsumer::new("Number").register(&task.runtime.memory_pool);
        let of_axis = |axis: &Axis| {
            let axis = *axis;
            self.segments
                .iter()
                .map(move |segment| (segment.dictionary(axis), segment.numbers(axis)))
        };
        let (names, targets): (Vec<_>, Vec<_>) = self.axes.iter().flat_map(of_axis).unzip();
        let read = |name: String| async move {
            let bytes = folder.get(&name).await?;
            let keys = Keys::from_dictionary(&bytes, numeric).ok_or_else(|| damaged(name))?;
            reservation.try_grow(bytes.len() * COPIES + keys.len() * KEY_BYTES)?;
            Ok::<_, JobError>(keys)
        };
        let dictionaries: Vec<Keys> =
            futures::stream::iter(names).map(read).buffered(AT_ONCE).try_collect().await?;
        let numbered = move |pool: &ThreadPool| pool.install(|| number(dictionaries));
        let numbered = task.threads.run(numbered).await?;
        let (keys, found) = numbered.ok_or_else(|| damaged(self.folder.0.to_string()))?;
        let write = |(name, numbers): (String, Numbers)| async move {
            Ok::<_, JobError>(folder.put(&name, numbers.to_bytes()).await?)
        };
        futures::stream::iter(targets.into_iter().zip(found))
            .map(write)
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let count = keys.len();
        let ids = self.ids.folder.open(task.runtime)?;
        ids.put(&self.ids.name, keys.to_bytes()).await?;
        measures_batch(task, &[count as f64], started)
    }
}

/// Numbered ids as rows: id and number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IdsExport {
    /// The ids.
    pub ids: NumberedIds,
    /// How they are cut.
    pub cut: Partitioned,
}

#[async_trait]
impl Kernel for IdsExport {
    fn name(&self) -> &'static str {
        "ids-export"
    }

    fn blocks(&self) -> u32 {
        self.cut.blocks()
    }

    fn schema(&self) -> SchemaRef {
        let index = Field::new("index", DataType::Int64, false);
        Arc::new(Schema::new(vec![self.ids.field(), index]))
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        let range = self.cut.range(task.block);
        let ids = self.ids.read(task.runtime, range.clone()).await?;
        let index = Int64Array::from_iter_values(range.map(|index| index as i64));
        Ok(RecordBatch::try_new(self.schema(), vec![ids, Arc::new(index)])?)
    }
}
