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
use rayon::ThreadPool;
use std::ops::Range;
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

/// What `find` finds for each row, in their order. Threads of the pool take some rows after others.
fn for_all_rows(
    pool: &ThreadPool,
    count: usize,
    find: impl Fn(Range<usize>) -> Result<Vec<Vec<Scored>>> + Sync,
) -> Result<Vec<Vec<Scored>>> {
    let mut found: Vec<_> = (0..count.div_ceil(ROWS)).map(|_| Ok(Vec::new())).collect();
    pool.in_place_scope(|scope| {
        for (first, found) in (0..).step_by(ROWS).zip(&mut found) {
            let (rows, find) = (first..(first + ROWS).min(count), &find);
            scope.spawn(move |_| *found = find(rows));
        }
    });
    let found: Vec<Vec<_>> = found.into_iter().collect::<Result<_>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// The best unseen items for users (id, factors, bias, seen items).
pub(super) fn recommend(
    pool: &ThreadPool,
    items: &Catalogue,
    users: &RecordBatch,
    k: usize,
    schema: SchemaRef,
) -> Result<RecordBatch> {
    let factors = users.column(1).as_list::<i32>();
    let biases = users.column(2).as_primitive::<Float32Type>();
    let seen = users.column(3).as_list::<i32>();
    let best = for_all_rows(pool, users.num_rows(), |rows| {
        let mut batch = Vec::with_capacity(rows.len() * items.width());
        for row in rows.clone() {
            let factors = finite(factors, row).filter(|factors| factors.len() == items.width());
            let factors = factors.ok_or_else(|| wrong_factors(users.column(0), row, items))?;
            batch.extend_from_slice(factors.as_primitive::<Float32Type>().values());
        }
        let seen: Vec<Vec<u32>> = rows.map(|row| ascending(seen, row)).collect();
        let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
        Ok(items.best_unseen(&batch, &seen, k))
    })?;
    let mut ranked = Ranked::default();
    for (row, best) in best.iter().enumerate() {
        let bias = if biases.is_null(row) { 0.0 } else { biases.value(row) };
        ranked.add(row, best, bias);
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
    pool: &ThreadPool,
    directions: &Directions,
    of: &RecordBatch,
    k: usize,
    schema: SchemaRef,
) -> Result<RecordBatch> {
    let indexes = of.column(1).as_primitive::<Int64Type>().values();
    let best = for_all_rows(pool, of.num_rows(), |rows| {
        let batch: Vec<u32> = indexes[rows].iter().map(|index| *index as u32).collect();
        Ok(most_similar(directions, &batch, k))
    })?;
    let mut ranked = Ranked::default();
    for (row, best) in best.iter().enumerate() {
        ranked.add(row, best, 0.0);
    }
    ranked.batch(of.column(0), schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::ThreadPoolBuilder;

    #[test]
    fn rows_keep_their_order_and_the_first_error_is_told() {
        let pool = ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let scored = |row: usize| vec![Scored { item: row as u32, score: 1.0 }];
        for count in [0, 1, ROWS, 5 * ROWS + 7] {
            let found = for_all_rows(&pool, count, |rows| Ok(rows.map(scored).collect())).unwrap();
            assert_eq!(found, (0..count).map(scored).collect::<Vec<_>>());
        }
        let failed = for_all_rows(&pool, 4 * ROWS, |rows| match rows.start / ROWS {
            0 => Ok(Vec::new()),
            part => Err(JobError::Statement(part.to_string())),
        });
        assert_eq!(failed.unwrap_err().to_string(), "1");
    }
}
