//! The state of `top_k`: the best rows of each group so far.

use super::NAME;
use crate::functions::arguments::{agree, passes, positive_k};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Field, Float16Type, Float32Type, Float64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::cast::{as_int64_array, as_list_array};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use std::sync::Arc;

/// One group. Rows are in the row format, in which the order of bytes is the order of the result.
#[derive(Debug, Clone, Default)]
struct Group {
    k: Option<i64>,
    /// At least the `k` best, less than twice as many.
    best: Vec<Box<[u8]>>,
    /// The last of the `k` best when they were last selected: worse rows are left out at once.
    worst: Option<Box<[u8]>>,
}

impl Group {
    fn k(&self) -> usize {
        self.k.map_or(0, |k| usize::try_from(k).unwrap_or(usize::MAX))
    }

    /// Drops all but the `k` best.
    fn select(&mut self) {
        let k = self.k();
        if k == 0 || self.best.len() < k {
            return;
        }
        self.best.select_nth_unstable(k - 1);
        self.best.truncate(k);
        self.worst = self.best.last().cloned();
    }

    /// Drops all but the `k` best, and puts those in order.
    fn finish(&mut self) {
        self.select();
        self.best.sort_unstable();
    }

    fn bytes(&self) -> usize {
        self.best.iter().map(|row| bytes(row)).sum()
    }
}

/// What a row takes.
fn bytes(row: &[u8]) -> usize {
    size_of::<Box<[u8]>>() + row.len()
}

/// All groups of an aggregation.
#[derive(Debug)]
pub(super) struct Groups {
    /// Types of score and value.
    types: [DataType; 2],
    converter: RowConverter,
    groups: Vec<Group>,
    /// What the groups' rows take.
    bytes: usize,
}

impl Groups {
    /// No groups yet, of scores and values of these types.
    pub(super) fn new(score: DataType, value: DataType) -> Result<Self> {
        let best_first = SortOptions { descending: true, nulls_first: false };
        let fields = vec![
            SortField::new_with_options(score.clone(), best_first),
            SortField::new(value.clone()),
        ];
        let converter = RowConverter::new(fields)?;
        Ok(Self { types: [score, value], converter, groups: Vec::new(), bytes: 0 })
    }

    /// Adds rows; `place` gives the group and the `k` of each that takes part.
    fn add(
        &mut self,
        values: &ArrayRef,
        scores: &ArrayRef,
        place: impl Fn(usize) -> Option<(usize, Option<i64>)>,
    ) -> Result<()> {
        let (no_value, no_score) = (values.logical_nulls(), scores.logical_nulls());
        let is_null = |nulls: &Option<NullBuffer>, row| {
            nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
        };
        let is_nan = nan_rows(scores);
        let rows = self.converter.convert_columns(&[Arc::clone(scores), Arc::clone(values)])?;
        for (index, row) in rows.iter().enumerate() {
            let Some((group, k)) = place(index) else { continue };
            if is_null(&no_value, index) || is_null(&no_score, index) {
                continue;
            }
            if is_nan(index) {
                return exec_err!("{NAME}: score is NaN");
            }
            let group = &mut self.groups[group];
            agree(NAME, "k", &mut group.k, positive_k(NAME, k)?)?;
            let row = row.as_ref();
            if group.worst.as_ref().is_some_and(|worst| row >= &**worst) {
                continue;
            }
            self.bytes += bytes(row);
            group.best.push(row.into());
            if group.best.len() >= group.k().saturating_mul(2) {
                self.bytes -= group.bytes();
                group.select();
                self.bytes += group.bytes();
            }
        }
        Ok(())
    }

    /// The groups that are handed out, each with its best rows in order.
    fn take(&mut self, emit: EmitTo) -> Vec<Group> {
        let mut taken = emit.take_needed(&mut self.groups);
        self.bytes -= taken.iter().map(Group::bytes).sum::<usize>();
        taken.iter_mut().for_each(Group::finish);
        taken
    }

    /// Lists of scores and of values.
    fn lists(&self, groups: &[Group], nulls: Option<NullBuffer>) -> Result<[ArrayRef; 2]> {
        let parser = self.converter.parser();
        let rows = groups.iter().flat_map(|group| &group.best).map(|row| parser.parse(row));
        let columns = self.converter.convert_rows(rows)?;
        let [scores, values] = columns.as_slice() else {
            return exec_err!("{NAME} has rows of two columns");
        };
        let offsets = OffsetBuffer::from_lengths(groups.iter().map(|group| group.best.len()));
        let list = |column: &ArrayRef, data_type: &DataType| -> Result<ArrayRef> {
            let field = Arc::new(Field::new_list_field(data_type.clone(), true));
            // The row format doesn't keep dictionaries inside of nested types.
            let column = cast(column, data_type)?;
            Ok(Arc::new(ListArray::try_new(field, offsets.clone(), column, nulls.clone())?))
        };
        Ok([list(scores, &self.types[0])?, list(values, &self.types[1])?])
    }

    /// Values of groups, NULL for those without rows.
    fn result_of(&self, groups: &[Group]) -> Result<ArrayRef> {
        let nulls = groups.iter().map(|group| !group.best.is_empty()).collect();
        let [_, values] = self.lists(groups, Some(nulls))?;
        Ok(values)
    }

    /// States of groups. Their lists are never NULL, so that those of values and of scores have the
    /// same elements.
    fn state_of(&self, groups: &[Group]) -> Result<Vec<ArrayRef>> {
        let [scores, values] = self.lists(groups, None)?;
        let ks: Int64Array = groups.iter().map(|group| group.k).collect();
        Ok(vec![values, scores, Arc::new(ks)])
    }
}

/// What is in the lists, end to end.
fn elements(lists: &ListArray) -> ArrayRef {
    let offsets = lists.value_offsets();
    let (first, last) = (offsets[0] as usize, offsets[lists.len()] as usize);
    lists.values().slice(first, last - first)
}

/// Which scores are NaN.
fn nan_rows(scores: &ArrayRef) -> impl Fn(usize) -> bool + '_ {
    let half = scores.as_primitive_opt::<Float16Type>();
    let single = scores.as_primitive_opt::<Float32Type>();
    let double = scores.as_primitive_opt::<Float64Type>();
    move |row| {
        half.is_some_and(|scores| scores.value(row).is_nan())
            || single.is_some_and(|scores| scores.value(row).is_nan())
            || double.is_some_and(|scores| scores.value(row).is_nan())
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        indices: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        let [values, scores, ks] = values else {
            return exec_err!("{NAME} takes three arguments");
        };
        let ks = as_int64_array(ks)?;
        self.groups.resize_with(total.max(self.groups.len()), Group::default);
        self.add(values, scores, |row| {
            let k = ks.is_valid(row).then(|| ks.value(row));
            passes(filter, row).then_some((indices[row], k))
        })
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let groups = self.take(emit);
        self.result_of(&groups)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = self.take(emit);
        self.state_of(&groups)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], indices: &[usize], total: usize) -> Result<()> {
        let [values, scores, ks] = states else {
            return exec_err!("{NAME} has a state of three columns");
        };
        let (values, scores) = (as_list_array(values)?, as_list_array(scores)?);
        let ks = as_int64_array(ks)?;
        self.groups.resize_with(total.max(self.groups.len()), Group::default);
        let mut places = Vec::new();
        for (state, group) in indices.iter().enumerate() {
            let k = ks.is_valid(state).then(|| ks.value(state));
            let count = values.value_length(state) as usize;
            places.resize(places.len() + count, Some((*group, k)));
        }
        self.add(&elements(values), &elements(scores), |row| places[row])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let rows = values.first().map_or(0, |column| column.len());
        let [score, value] = self.types.clone();
        let mut each = Self::new(score, value)?;
        each.update_batch(values, &(0..rows).collect::<Vec<_>>(), filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        let groups = self.groups.capacity() * size_of::<Group>();
        size_of_val(self) + self.converter.size() + groups + self.bytes
    }
}

/// The only group of an aggregation without GROUP BY, or of a window.
#[derive(Debug)]
pub(super) struct OneGroup(pub(super) Groups);

impl OneGroup {
    fn group(&mut self) -> Group {
        self.0.groups.resize_with(1, Group::default);
        self.0.groups[0].finish();
        self.0.bytes = self.0.groups[0].bytes();
        self.0.groups[0].clone()
    }
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |column| column.len());
        self.0.update_batch(values, &vec![0; rows], None, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let group = self.group();
        ScalarValue::try_from_array(&self.0.result_of(&[group])?, 0)
    }

    fn size(&self) -> usize {
        GroupsAccumulator::size(&self.0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let group = self.group();
        let columns = self.0.state_of(&[group])?;
        columns.iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let rows = states.first().map_or(0, |column| column.len());
        self.0.merge_batch(states, &vec![0; rows], 1)
    }
}
