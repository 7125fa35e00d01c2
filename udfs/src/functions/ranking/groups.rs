//! The state of the measures: the ranking of each group.

use super::{Measure, Ranking};
use crate::functions::arguments::{list_of, passes, positive_k};
use crate::functions::states_of_rows;
use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Float64Builder, Int64Array, Int64Builder,
    ListBuilder,
};
use arrow::datatypes::DataType;
use datafusion::common::cast::{as_float64_array, as_int64_array, as_list_array};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use std::marker::PhantomData;
use std::sync::Arc;

/// Names and types of a state's columns: the fields of [`Ranking`].
pub(super) fn state() -> [(&'static str, DataType); 5] {
    [
        ("k", DataType::Int64),
        ("relevant", DataType::Int64),
        ("hit_ranks", list_of(DataType::Int64)),
        ("hit_relevances", list_of(DataType::Float64)),
        ("ideal", list_of(DataType::Float64)),
    ]
}

impl Ranking {
    fn set_k(&mut self, function: &str, k: i64) -> Result<()> {
        let k = usize::try_from(k).unwrap_or(usize::MAX);
        if self.k != 0 && self.k != k {
            return exec_err!(
                "{function}: k is {} and {k} in one group, it must be the same in all rows",
                self.k
            );
        }
        self.k = k;
        Ok(())
    }

    fn add_hit(&mut self, function: &str, rank: i64, relevance: f64) -> Result<()> {
        match self.hits.binary_search_by_key(&rank, |hit| hit.0) {
            Ok(_) => exec_err!(
                "{function}: two relevant items have the rank {rank}: ranks come from row_number(), \
                 and each group is the ranking of one user"
            ),
            Err(place) => {
                self.hits.insert(place, (rank, relevance));
                Ok(())
            }
        }
    }

    fn add_ideal(&mut self, relevance: f64) {
        let place = self.ideal.partition_point(|other| *other >= relevance);
        if place < self.k {
            self.ideal.insert(place, relevance);
            self.ideal.truncate(self.k);
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(self.hits.as_slice()) + size_of_val(self.ideal.as_slice())
    }
}

/// All groups of an aggregation.
#[derive(Debug)]
pub(super) struct Groups<M> {
    groups: Vec<Ranking>,
    /// What the groups' vectors take.
    bytes: usize,
    measure: PhantomData<M>,
}

impl<M> Default for Groups<M> {
    fn default() -> Self {
        Self { groups: Vec::new(), bytes: 0, measure: PhantomData }
    }
}

impl<M: Measure> Groups<M> {
    /// The groups that are handed out.
    fn take(&mut self, emit: EmitTo) -> Vec<Ranking> {
        let taken = emit.take_needed(&mut self.groups);
        self.bytes -= taken.iter().map(Ranking::bytes).sum::<usize>();
        taken
    }
}

fn result_of<M: Measure>(groups: &[Ranking]) -> ArrayRef {
    let measure = |ranking: &Ranking| (ranking.relevant > 0).then(|| M::of(ranking));
    Arc::new(groups.iter().map(measure).collect::<Float64Array>())
}

fn state_of(groups: &[Ranking]) -> Vec<ArrayRef> {
    let k =
        |ranking: &Ranking| (ranking.k > 0).then(|| i64::try_from(ranking.k).unwrap_or(i64::MAX));
    let ks: Int64Array = groups.iter().map(k).collect();
    let relevant = Int64Array::from_iter_values(groups.iter().map(|ranking| ranking.relevant));
    let mut ranks = ListBuilder::new(Int64Builder::new());
    let mut relevances = ListBuilder::new(Float64Builder::new());
    let mut ideals = ListBuilder::new(Float64Builder::new());
    for ranking in groups {
        for (rank, relevance) in &ranking.hits {
            ranks.values().append_value(*rank);
            relevances.values().append_value(*relevance);
        }
        ideals.values().append_slice(&ranking.ideal);
        ranks.append(true);
        relevances.append(true);
        ideals.append(true);
    }
    vec![
        Arc::new(ks),
        Arc::new(relevant),
        Arc::new(ranks.finish()),
        Arc::new(relevances.finish()),
        Arc::new(ideals.finish()),
    ]
}

impl<M: Measure> GroupsAccumulator for Groups<M> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        indices: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        let [ranks, relevances, ks] = values else {
            return exec_err!("{} takes three arguments", M::NAME);
        };
        let (ranks, ks) = (as_int64_array(ranks)?, as_int64_array(ks)?);
        let relevances = as_float64_array(relevances)?;
        self.groups.resize_with(total.max(self.groups.len()), Ranking::default);
        for (row, index) in indices.iter().enumerate() {
            if !passes(filter, row) {
                continue;
            }
            let ranking = &mut self.groups[*index];
            let k = positive_k(M::NAME, ks.is_valid(row).then(|| ks.value(row)))?;
            ranking.set_k(M::NAME, k)?;
            let rank = ranks.is_valid(row).then(|| ranks.value(row));
            if let Some(rank) = rank
                && rank < 1
            {
                return exec_err!("{}: rank is {rank}, ranks start at 1", M::NAME);
            }
            let relevance = if relevances.is_valid(row) { relevances.value(row) } else { 0.0 };
            if !(relevance >= 0.0 && relevance.is_finite()) {
                return exec_err!(
                    "{}: relevance is {relevance}, it must be finite and not negative",
                    M::NAME
                );
            }
            if relevance == 0.0 {
                continue;
            }
            self.bytes -= ranking.bytes();
            ranking.relevant += 1;
            ranking.add_ideal(relevance);
            if let Some(rank) = rank
                && rank <= k
            {
                ranking.add_hit(M::NAME, rank, relevance)?;
            }
            self.bytes += ranking.bytes();
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        Ok(result_of::<M>(&self.take(emit)))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(state_of(&self.take(emit)))
    }

    fn merge_batch(&mut self, states: &[ArrayRef], indices: &[usize], total: usize) -> Result<()> {
        let [ks, relevant, ranks, relevances, ideals] = states else {
            return exec_err!("{} has a state of five columns", M::NAME);
        };
        let (ks, relevant) = (as_int64_array(ks)?, as_int64_array(relevant)?);
        let (ranks, relevances) = (as_list_array(ranks)?, as_list_array(relevances)?);
        let ideals = as_list_array(ideals)?;
        let (all_ranks, all_relevances) =
            (as_int64_array(ranks.values())?, as_float64_array(relevances.values())?);
        let all_ideals = as_float64_array(ideals.values())?;
        self.groups.resize_with(total.max(self.groups.len()), Ranking::default);
        for (state, index) in indices.iter().enumerate().filter(|(state, _)| ks.is_valid(*state)) {
            let ranking = &mut self.groups[*index];
            self.bytes -= ranking.bytes();
            ranking.set_k(M::NAME, ks.value(state))?;
            ranking.relevant += relevant.value(state);
            let first = |offsets: &[i32]| offsets[state] as usize;
            let (rank, relevance) =
                (first(ranks.value_offsets()), first(relevances.value_offsets()));
            for hit in 0..ranks.value_length(state) as usize {
                let relevance = all_relevances.value(relevance + hit);
                ranking.add_hit(M::NAME, all_ranks.value(rank + hit), relevance)?;
            }
            let ideal = first(ideals.value_offsets());
            for place in 0..ideals.value_length(state) as usize {
                ranking.add_ideal(all_ideals.value(ideal + place));
            }
            self.bytes += ranking.bytes();
        }
        Ok(())
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        states_of_rows::<Self>(values, filter)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.groups.capacity() * size_of::<Ranking>() + self.bytes
    }
}

/// The only group of an aggregation without GROUP BY, or of a window.
#[derive(Debug)]
pub(super) struct OneGroup<M>(Groups<M>);

impl<M> Default for OneGroup<M> {
    fn default() -> Self {
        Self(Groups { groups: vec![Ranking::default()], ..Groups::default() })
    }
}

impl<M: Measure> Accumulator for OneGroup<M> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |column| column.len());
        self.0.update_batch(values, &vec![0; rows], None, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&result_of::<M>(&self.0.groups), 0)
    }

    fn size(&self) -> usize {
        GroupsAccumulator::size(&self.0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let columns = state_of(&self.0.groups);
        columns.iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let rows = states.first().map_or(0, |column| column.len());
        self.0.merge_batch(states, &vec![0; rows], 1)
    }
}
