//! Ranked items: recommendations for users, and items similar to items.

use crate::{JobError, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Int32Array, Int64Array, ListArray, RecordBatch,
    UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Float32Type, Int32Type, Int64Type, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use nightshift_udfs::similar_items::{Directions, most_similar};
use nightshift_udfs::top_k::{Catalogue, Scored};
use std::sync::Arc;

/// Rows that are scored at a time: those that share the reading of the items.
const ROWS: usize = 256;

/// The id as it comes, then the rank from 1, the ranked item's dense number and the score.
pub(super) fn schema(id: &Field) -> SchemaRef {
    Arc::new(Schema::new(vec![
        id.clone().with_nullable(true),
        Field::new("rank", DataType::Int32, true),
        Field::new("item_index", DataType::Int64, true),
        Field::new("score", DataType::Float32, true),
    ]))
}

/// Ranked items being gathered.
#[derive(Default)]
struct Ranked {
    rows: Vec<u32>,
    ranks: Vec<i32>,
    items: Vec<i64>,
    scores: Vec<f32>,
}

impl Ranked {
    /// Adds the items of a row; `bias` is what its scores lack.
    fn add(&mut self, row: usize, best: &[Scored], bias: f32) {
        for (position, scored) in best.iter().enumerate() {
            self.rows.push(row as u32);
            self.ranks.push(position as i32 + 1);
            self.items.push(i64::from(scored.item));
            self.scores.push(scored.score + bias);
        }
    }

    fn batch(self, ids: &ArrayRef, schema: SchemaRef) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = vec![
            take(ids, &UInt32Array::from(self.rows), None)?,
            Arc::new(Int32Array::from(self.ranks)),
            Arc::new(Int64Array::from(self.items)),
            Arc::new(Float32Array::from(self.scores)),
        ];
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}

/// The best unseen items for users (id, factors, bias, seen items).
pub(super) fn recommend(
    items: &Catalogue,
    users: &RecordBatch,
    k: usize,
    schema: SchemaRef,
) -> Result<RecordBatch> {
    let factors = users.column(1).as_list::<i32>();
    let biases = users.column(2).as_primitive::<Float32Type>();
    let seen = users.column(3).as_list::<i32>();
    let mut ranked = Ranked::default();
    for first in (0..users.num_rows()).step_by(ROWS) {
        let range = first..(first + ROWS).min(users.num_rows());
        let mut batch = Vec::with_capacity(range.len() * items.width());
        for row in range.clone() {
            let factors = finite(factors, row).filter(|factors| factors.len() == items.width());
            let factors = factors.ok_or_else(|| wrong_factors(users.column(0), row, items))?;
            batch.extend_from_slice(factors.as_primitive::<Float32Type>().values());
        }
        let seen: Vec<Vec<u32>> = range.clone().map(|row| ascending(seen, row)).collect();
        let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
        for (row, best) in range.zip(items.best_unseen(&batch, &seen, k)) {
            let bias = if biases.is_null(row) { 0.0 } else { biases.value(row) };
            ranked.add(row, &best, bias);
        }
    }
    ranked.batch(users.column(0), schema)
}

/// The numbers of a list; `None` if it is NULL or one of them is, or is not finite.
fn finite(lists: &ListArray, row: usize) -> Option<ArrayRef> {
    let values = (!lists.is_null(row)).then(|| lists.value(row))?;
    let numbers = values.as_primitive::<Float32Type>();
    let good = numbers.null_count() == 0 && numbers.values().iter().all(|value| value.is_finite());
    good.then_some(values)
}

fn wrong_factors(users: &ArrayRef, row: usize, items: &Catalogue) -> JobError {
    let user = array_value_to_string(users, row).unwrap_or_default();
    JobError::Statement(format!(
        "ml_recommend: the factors of user {user} are not {} finite numbers, as those of the items are",
        items.width()
    ))
}

/// The different numbers of a list in their order.
fn ascending(lists: &ListArray, row: usize) -> Vec<u32> {
    if lists.is_null(row) {
        return Vec::new();
    }
    let values = lists.value(row);
    let values = values.as_primitive::<Int32Type>();
    let mut numbers: Vec<u32> = match values.null_count() {
        0 => values.values().iter().map(|number| *number as u32).collect(),
        _ => values.iter().flatten().map(|number| number as u32).collect(),
    };
    if !numbers.is_sorted_by(|a, b| a < b) {
        numbers.sort_unstable();
        numbers.dedup();
    }
    numbers
}

/// The items most similar to items (id, dense number).
pub(super) fn similar(
    directions: &Directions,
    of: &RecordBatch,
    k: usize,
    schema: SchemaRef,
) -> Result<RecordBatch> {
    let indexes = of.column(1).as_primitive::<Int64Type>().values();
    let mut ranked = Ranked::default();
    for first in (0..of.num_rows()).step_by(ROWS) {
        let range = first..(first + ROWS).min(of.num_rows());
        let batch: Vec<u32> = indexes[range.clone()].iter().map(|index| *index as u32).collect();
        for (row, best) in range.zip(most_similar(directions, &batch, k)) {
            ranked.add(row, &best, 0.0);
        }
    }
    ranked.batch(of.column(0), schema)
}
