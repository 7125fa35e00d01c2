//! The state of `als_solve`: what is known of each group's normal equations.

use super::NAME;
use crate::als::{Equations, Feedback};
use crate::functions::arguments::{NumberLists, agree, list_of, passes};
use crate::functions::states_of_rows;
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, Float32Builder, Float64Array, Int64Array,
    ListBuilder, PrimitiveBuilder,
};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::cast::{as_float32_array, as_float64_array, as_int64_array};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use std::sync::Arc;

/// Names and types of a state's columns. `sums` are [`Equations::sums`]; `factors` and `weights` are
/// rows that are not yet in them, the factors end to end. All are NULL for a group without rows.
pub(super) fn state() -> [(&'static str, DataType); 7] {
    [
        ("l2_reg", DataType::Float64),
        ("alpha", DataType::Float64),
        ("width", DataType::Int64),
        ("gram", list_of(DataType::Float64)),
        ("sums", list_of(DataType::Float64)),
        ("factors", list_of(DataType::Float32)),
        ("weights", list_of(DataType::Float32)),
    ]
}

/// One group. Its rows are kept as they are while that takes less room than the sums would: most
/// groups of a partial aggregation have few of them.
#[derive(Debug, Clone, Default)]
struct Group {
    /// The length of factor vectors.
    width: Option<i64>,
    l2_reg: Option<f64>,
    /// Not given for explicit feedback.
    alpha: Option<f64>,
    /// Which of [`Groups::grams`].
    gram: Option<usize>,
    sums: Option<Vec<f64>>,
    factors: Vec<f32>,
    weights: Vec<f32>,
}

impl Group {
    fn width(&self) -> usize {
        self.width.map_or(0, |width| width as usize)
    }

    fn feedback(&self) -> Feedback {
        match self.alpha {
            Some(alpha) => Feedback::Implicit { alpha },
            None => Feedback::Explicit { bias: false, mean: 0.0 },
        }
    }

    fn rows(&self) -> impl Iterator<Item = (&[f32], f32)> {
        self.factors.chunks_exact(self.width().max(1)).zip(self.weights.iter().copied())
    }

    fn bytes(&self) -> usize {
        let sums = self.sums.as_ref().map_or(0, Vec::capacity);
        sums * 8 + (self.factors.capacity() + self.weights.capacity()) * 4
    }

    /// Adds the rows that are kept to the sums.
    fn fold(&mut self, workspace: &mut Option<Equations>) {
        let equations = equations(workspace, self.width());
        equations.clear();
        if let Some(sums) = &self.sums {
            equations.add_sums(sums);
        }
        equations.add(self.feedback(), self.rows());
        self.sums = Some(equations.sums());
        (self.factors, self.weights) = (Vec::new(), Vec::new());
    }

    fn solve(
        &self,
        grams: &[Vec<f64>],
        workspace: &mut Option<Equations>,
    ) -> Result<Option<Vec<f32>>> {
        let Some(l2_reg) = self.l2_reg else { return Ok(None) };
        let gram = match (self.alpha, self.gram) {
            (None, _) => &[],
            (Some(_), Some(gram)) => grams[gram].as_slice(),
            (Some(_), None) => return exec_err!("{NAME}: gram is NULL in all rows of a group"),
        };
        let equations = equations(workspace, self.width());
        equations.start(self.feedback(), gram, l2_reg);
        if let Some(sums) = &self.sums {
            equations.add_sums(sums);
        }
        equations.add(self.feedback(), self.rows());
        let solution = equations.solve().map(|solution| solution.iter().map(|v| *v as f32));
        match solution.map(Iterator::collect::<Vec<f32>>) {
            Some(solution) if solution.iter().all(|value| value.is_finite()) => Ok(Some(solution)),
            _ => exec_err!("{NAME}: the equations of a group are singular: use a larger l2_reg"),
        }
    }
}

/// Room for equations of a width.
fn equations(workspace: &mut Option<Equations>, width: usize) -> &mut Equations {
    workspace.take_if(|equations| equations.width() != width);
    workspace.get_or_insert_with(|| Equations::new(width))
}

/// A number that must be there, finite and not negative.
fn not_negative(argument: &str, numbers: &Float64Array, row: usize) -> Result<f64> {
    if numbers.is_null(row) {
        return exec_err!("{NAME}: {argument} is NULL, it must be finite and not negative");
    }
    match numbers.value(row) {
        value if value >= 0.0 && value.is_finite() => Ok(value),
        value => exec_err!("{NAME}: {argument} is {value}, it must be finite and not negative"),
    }
}

/// All groups of an aggregation.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
    /// The Gram matrices that were given: as a rule one, and kept once for all groups.
    grams: Vec<Vec<f64>>,
    workspace: Option<Equations>,
    /// What the groups' vectors take.
    bytes: usize,
}

impl Groups {
    fn set_gram(&mut self, index: usize, gram: &[f64]) -> Result<()> {
        let group = &mut self.groups[index];
        if group.gram.is_some() {
            return Ok(());
        }
        let width = group.width();
        if gram.len() != width * width {
            return exec_err!(
                "{NAME}: gram has {} numbers, factors of the length {width} need {}",
                gram.len(),
                width * width
            );
        }
        if self.grams.last().is_none_or(|last| last != gram) {
            self.grams.push(gram.to_vec());
        }
        group.gram = Some(self.grams.len() - 1);
        Ok(())
    }

    /// Adds rows, whose factors are end to end.
    fn add(&mut self, index: usize, factors: &[f32], weights: &[f32]) {
        let group = &mut self.groups[index];
        self.bytes -= group.bytes();
        group.factors.extend_from_slice(factors);
        group.weights.extend_from_slice(weights);
        if group.factors.len() >= 2 * Equations::sums_len(group.width()) {
            group.fold(&mut self.workspace);
        }
        self.bytes += group.bytes();
    }

    fn add_sums(&mut self, index: usize, sums: &[f64]) {
        let group = &mut self.groups[index];
        match &mut group.sums {
            Some(known) => known.iter_mut().zip(sums).for_each(|(known, sum)| *known += sum),
            None => {
                group.sums = Some(sums.to_vec());
                self.bytes += size_of_val(sums);
            }
        }
    }

    /// The groups that are handed out.
    fn take(&mut self, emit: EmitTo) -> Vec<Group> {
        let taken = emit.take_needed(&mut self.groups);
        self.bytes -= taken.iter().map(Group::bytes).sum::<usize>();
        taken
    }

    fn state_of(&self, groups: &[Group]) -> Vec<ArrayRef> {
        let numbers = |of: fn(&Group) -> Option<f64>| -> ArrayRef {
            Arc::new(groups.iter().map(of).collect::<Float64Array>())
        };
        let width: Int64Array = groups.iter().map(|group| group.width).collect();
        let gram = |group: &Group| group.gram.map(|gram| self.grams[gram].as_slice());
        vec![
            numbers(|group| group.l2_reg),
            numbers(|group| group.alpha),
            Arc::new(width),
            lists::<Float64Type>(groups.iter().map(gram)),
            lists::<Float64Type>(groups.iter().map(|group| group.sums.as_deref())),
            lists::<Float32Type>(groups.iter().map(|group| some(&group.factors))),
            lists::<Float32Type>(groups.iter().map(|group| some(&group.weights))),
        ]
    }
}

fn some(values: &[f32]) -> Option<&[f32]> {
    (!values.is_empty()).then_some(values)
}

/// A column of lists.
fn lists<'a, T: ArrowPrimitiveType>(
    rows: impl Iterator<Item = Option<&'a [T::Native]>>,
) -> ArrayRef {
    let mut lists = ListBuilder::new(PrimitiveBuilder::<T>::new());
    for row in rows {
        lists.values().append_slice(row.unwrap_or_default());
        lists.append(row.is_some());
    }
    Arc::new(lists.finish())
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        indices: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        let [factors, weights, l2_regs, implicit @ ..] = values else {
            return exec_err!("{NAME} takes three or five arguments");
        };
        let factors = NumberLists::<Float32Type>::new(NAME, "factors", factors)?;
        let (weights, l2_regs) = (as_float32_array(weights)?, as_float64_array(l2_regs)?);
        let implicit = match implicit {
            [alphas, grams] => Some((
                as_float64_array(alphas)?,
                NumberLists::<Float64Type>::new(NAME, "gram", grams)?,
            )),
            _ => None,
        };
        self.groups.resize_with(total.max(self.groups.len()), Group::default);
        for (row, index) in indices.iter().enumerate() {
            if !passes(filter, row) || weights.is_null(row) {
                continue;
            }
            let Some(vector) = factors.row(row)? else { continue };
            let weight = weights.value(row);
            if !weight.is_finite() {
                return exec_err!("{NAME}: weight is {weight}, it must be finite");
            }
            let group = &mut self.groups[*index];
            agree(NAME, "the length of factors", &mut group.width, vector.len() as i64)?;
            agree(NAME, "l2_reg", &mut group.l2_reg, not_negative("l2_reg", l2_regs, row)?)?;
            if let Some((alphas, grams)) = &implicit {
                agree(NAME, "alpha", &mut group.alpha, not_negative("alpha", alphas, row)?)?;
                // Reading a matrix checks all of its numbers.
                if group.gram.is_none()
                    && let Some(gram) = grams.row(row)?
                {
                    self.set_gram(*index, gram)?;
                }
            }
            self.add(*index, vector, &[weight]);
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let mut solutions = ListBuilder::new(Float32Builder::new());
        for group in self.take(emit) {
            let solution = group.solve(&self.grams, &mut self.workspace)?;
            solutions.values().append_slice(solution.as_deref().unwrap_or_default());
            solutions.append(solution.is_some());
        }
        Ok(Arc::new(solutions.finish()))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = self.take(emit);
        Ok(self.state_of(&groups))
    }

    fn merge_batch(&mut self, states: &[ArrayRef], indices: &[usize], total: usize) -> Result<()> {
        let [l2_regs, alphas, widths, grams, sums, factors, weights] = states else {
            return exec_err!("{NAME} has a state of seven columns");
        };
        let (l2_regs, alphas) = (as_float64_array(l2_regs)?, as_float64_array(alphas)?);
        let widths = as_int64_array(widths)?;
        let grams = NumberLists::<Float64Type>::new(NAME, "gram", grams)?;
        let sums = NumberLists::<Float64Type>::new(NAME, "sums", sums)?;
        let factors = NumberLists::<Float32Type>::new(NAME, "factors", factors)?;
        let weights = NumberLists::<Float32Type>::new(NAME, "weights", weights)?;
        self.groups.resize_with(total.max(self.groups.len()), Group::default);
        for (row, index) in indices.iter().enumerate().filter(|(row, _)| l2_regs.is_valid(*row)) {
            let group = &mut self.groups[*index];
            agree(NAME, "the length of factors", &mut group.width, widths.value(row))?;
            agree(NAME, "l2_reg", &mut group.l2_reg, l2_regs.value(row))?;
            if alphas.is_valid(row) {
                agree(NAME, "alpha", &mut group.alpha, alphas.value(row))?;
            }
            if group.gram.is_none()
                && let Some(gram) = grams.row(row)?
            {
                self.set_gram(*index, gram)?;
            }
            if let Some(sums) = sums.row(row)? {
                self.add_sums(*index, sums);
            }
            if let (Some(factors), Some(weights)) = (factors.row(row)?, weights.row(row)?) {
                self.add(*index, factors, weights);
            }
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
        let width = self.workspace.as_ref().map_or(0, Equations::width);
        let grams: usize = self.grams.iter().map(|gram| gram.capacity() * 8).sum();
        let groups = self.groups.capacity() * size_of::<Group>();
        size_of_val(self) + groups + self.bytes + grams + width * width * 8
    }
}

/// The only group of an aggregation without GROUP BY, or of a window.
#[derive(Debug, Default)]
pub(super) struct OneGroup(Groups);

impl OneGroup {
    fn group(&self) -> Group {
        self.0.groups.first().cloned().unwrap_or_default()
    }
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |column| column.len());
        self.0.update_batch(values, &vec![0; rows], None, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let solution = self.group().solve(&self.0.grams, &mut self.0.workspace)?;
        let list = lists::<Float32Type>(std::iter::once(solution.as_deref()));
        ScalarValue::try_from_array(&list, 0)
    }

    fn size(&self) -> usize {
        GroupsAccumulator::size(&self.0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let columns = self.0.state_of(&[self.group()]);
        columns.iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let rows = states.first().map_or(0, |column| column.len());
        self.0.merge_batch(states, &vec![0; rows], 1)
    }
}
