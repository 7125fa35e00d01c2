//! Which columns of tables the columns of a query come from, as far as its plan tells.
//!
//! A column of a step of the plan is known by the columns of tables that it is made of, and how. What the plan doesn't
//! tell is left out: rather no column than a wrong one.

use super::{ColumnLineage, How, Source};
use crate::introspection::sql_type;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::logical_expr::{
    Aggregate, Case, Distinct, Expr, Join, LogicalPlan, Subquery, TableScan, Unnest,
};
use std::collections::{BTreeMap, BTreeSet};

/// The dataset that a scan reads; `None` if it reads none, such as rows that are in the plan itself.
pub type NameOf<'a> = &'a dyn Fn(&TableScan) -> Option<String>;

/// What is known of a query.
#[derive(Debug, Default)]
pub struct Traced {
    /// Its columns, with what each comes from.
    pub columns: Vec<ColumnLineage>,
    /// What decides which rows there are, and in which order.
    pub indirect: Vec<Source>,
}

/// Finds out what the columns of a plan come from, optimized or not.
pub fn trace(plan: &LogicalPlan, name_of: NameOf<'_>) -> Traced {
    let step = Tracer { name_of }.plan(plan, None);
    let columns = plan.schema().fields().iter().zip(step.columns);
    let columns = columns.map(|(field, sources)| ColumnLineage {
        name: field.name().clone(),
        data_type: sql_type(field.data_type()),
        from: sources.map(Sources::into_list).unwrap_or_default(),
    });
    Traced { columns: columns.collect(), indirect: step.indirect.into_list() }
}

/// Columns of tables, by the table and the column, with how something comes from them.
#[derive(Debug, Clone, Default)]
struct Sources(BTreeMap<(String, String), BTreeSet<How>>);

impl Sources {
    fn one(table: &str, column: &str, how: How) -> Self {
        let key = (table.to_string(), column.to_string());
        Self(BTreeMap::from([(key, BTreeSet::from([how]))]))
    }

    fn add(&mut self, other: Self) {
        for (column, how) in other.0 {
            self.0.entry(column).or_default().extend(how);
        }
    }

    /// Those of what is made of this.
    fn made(self, by: How) -> Self {
        let made = |how: How| if how.is_direct() { how.max(by) } else { how };
        let all = self.0.into_iter();
        Self(all.map(|(column, how)| (column, how.into_iter().map(made).collect())).collect())
    }

    /// Those of what depends on this without being made of it.
    fn only(self, how: How) -> Self {
        Self(self.0.into_keys().map(|column| (column, BTreeSet::from([how]))).collect())
    }

    fn into_list(self) -> Vec<Source> {
        let source = |((table, column), how): (_, BTreeSet<How>)| Source {
            table,
            column,
            how: how.into_iter().collect(),
        };
        self.0.into_iter().map(source).collect()
    }
}

/// A step of a plan: its columns, `None` where they are not known, and what decides which rows there are.
#[derive(Debug, Default)]
struct Step {
    columns: Vec<Option<Sources>>,
    indirect: Sources,
}

/// The columns that expressions can name.
struct Scope<'a> {
    inputs: Vec<(&'a DFSchema, &'a [Option<Sources>])>,
    /// Those of the query around this one.
    outer: Option<&'a Scope<'a>>,
}

impl<'a> Scope<'a> {
    fn of(plan: &'a LogicalPlan, step: &'a Step, outer: Option<&'a Scope<'a>>) -> Self {
        Self { inputs: vec![(plan.schema().as_ref(), step.columns.as_slice())], outer }
    }

    fn find(&self, column: &Column) -> Option<Option<Sources>> {
        self.inputs.iter().find_map(|(schema, columns)| {
            schema.maybe_index_of_column(column).and_then(|at| columns.get(at).cloned())
        })
    }

    fn find_outer(&self, column: &Column) -> Option<Option<Sources>> {
        let outer = self.outer?;
        outer.find(column).or_else(|| outer.find_outer(column))
    }
}

struct Tracer<'n> {
    name_of: NameOf<'n>,
}

impl Tracer<'_> {
    fn plan(&self, plan: &LogicalPlan, outer: Option<&Scope<'_>>) -> Step {
        let step = self.step(plan, outer);
        match step.columns.len() == plan.schema().fields().len() {
            true => step,
            false => Step { columns: vec![None; plan.schema().fields().len()], ..step },
        }
    }

    fn step(&self, plan: &LogicalPlan, outer: Option<&Scope<'_>>) -> Step {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::Projection(projection) => {
                let input = self.plan(&projection.input, outer);
                let columns =
                    self.values(&projection.expr, &Scope::of(&projection.input, &input, outer));
                Step { columns, indirect: input.indirect }
            }
            LogicalPlan::Filter(filter) => {
                let mut step = self.plan(&filter.input, outer);
                let used = self.used(
                    [&filter.predicate],
                    How::Filter,
                    &Scope::of(&filter.input, &step, outer),
                );
                step.indirect.add(used);
                step
            }
            LogicalPlan::Sort(sort) => {
                let mut step = self.plan(&sort.input, outer);
                let keys = sort.expr.iter().map(|key| &key.expr);
                let used = self.used(keys, How::Sort, &Scope::of(&sort.input, &step, outer));
                step.indirect.add(used);
                step
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate, outer),
            LogicalPlan::Window(window) => {
                let mut step = self.plan(&window.input, outer);
                let made =
                    self.values(&window.window_expr, &Scope::of(&window.input, &step, outer));
                step.columns.extend(made);
                step
            }
            LogicalPlan::Join(join) => self.join(join, outer),
            LogicalPlan::Union(union) => {
                let mut inputs = union.inputs.iter().map(|input| self.plan(input, outer));
                let Some(mut all) = inputs.next() else { return Step::default() };
                for input in inputs {
                    all.indirect.add(input.indirect);
                    for (column, other) in all.columns.iter_mut().zip(input.columns) {
                        *column = merged(column.take(), other);
                    }
                }
                all
            }
            LogicalPlan::Distinct(distinct) => self.distinct(distinct, outer),
            LogicalPlan::Unnest(unnest) => self.unnest(unnest, outer),
            LogicalPlan::SubqueryAlias(alias) => self.plan(&alias.input, outer),
            LogicalPlan::Subquery(subquery) => self.plan(&subquery.subquery, outer),
            LogicalPlan::Limit(limit) => self.plan(&limit.input, outer),
            LogicalPlan::Repartition(repartition) => self.plan(&repartition.input, outer),
            LogicalPlan::Values(values) => {
                let scope = Scope { inputs: Vec::new(), outer };
                let mut rows = values.values.iter().map(|row| self.values(row, &scope));
                let mut columns = rows.next().unwrap_or_default();
                for row in rows {
                    for (column, other) in columns.iter_mut().zip(row) {
                        *column = merged(column.take(), other);
                    }
                }
                Step { columns, indirect: Sources::default() }
            }
            LogicalPlan::EmptyRelation(empty) => Step {
                columns: vec![Some(Sources::default()); empty.schema.fields().len()],
                indirect: Sources::default(),
            },
            // What others make of their inputs is theirs to know.
            other => {
                let mut indirect = Sources::default();
                for input in other.inputs() {
                    indirect.add(self.plan(input, outer).indirect);
                }
                Step { columns: Vec::new(), indirect }
            }
        }
    }

    fn scan(&self, scan: &TableScan) -> Step {
        let fields = scan.projected_schema.fields();
        let Some(table) = (self.name_of)(scan) else {
            let columns = vec![Some(Sources::default()); fields.len()];
            return Step { columns, indirect: Sources::default() };
        };
        let column = |name: &String| Some(Sources::one(&table, name, How::Identity));
        let mut indirect = Sources::default();
        for column in scan.filters.iter().flat_map(Expr::column_refs) {
            indirect.add(Sources::one(&table, &column.name, How::Filter));
        }
        Step { columns: fields.iter().map(|field| column(field.name())).collect(), indirect }
    }

    fn aggregate(&self, aggregate: &Aggregate, outer: Option<&Scope<'_>>) -> Step {
        let input = self.plan(&aggregate.input, outer);
        let scope = Scope::of(&aggregate.input, &input, outer);
        let (keys, sets): (Vec<&Expr>, bool) = match aggregate.group_expr.as_slice() {
            [Expr::GroupingSet(sets)] => (sets.distinct_expr(), true),
            keys => (keys.iter().collect(), false),
        };
        let mut columns = self.values(keys.iter().copied(), &scope);
        if sets {
            // Which of the sets a row is of.
            columns.push(Some(Sources::default()));
        }
        columns.extend(self.values(&aggregate.aggr_expr, &scope));
        let used = self.used(keys, How::GroupBy, &scope);
        let mut indirect = input.indirect;
        indirect.add(used);
        Step { columns, indirect }
    }

    fn join(&self, join: &Join, outer: Option<&Scope<'_>>) -> Step {
        let left = self.plan(&join.left, outer);
        // A lateral one reads the columns of what it is joined to.
        let beside = Scope::of(&join.left, &left, outer);
        let right = self.plan(&join.right, Some(&beside));
        let scope = Scope {
            inputs: vec![
                (join.left.schema().as_ref(), left.columns.as_slice()),
                (join.right.schema().as_ref(), right.columns.as_slice()),
            ],
            outer,
        };
        let keys = join.on.iter().flat_map(|(left, right)| [left, right]).chain(&join.filter);
        let used = self.used(keys, How::Join, &scope);
        let mut indirect = left.indirect;
        indirect.add(right.indirect);
        indirect.add(used);
        let columns = match join.join_type {
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
                left.columns.into_iter().chain(right.columns).collect()
            }
            JoinType::LeftSemi | JoinType::LeftAnti => left.columns,
            JoinType::RightSemi | JoinType::RightAnti => right.columns,
            JoinType::LeftMark => left.columns.into_iter().chain([None]).collect(),
            JoinType::RightMark => right.columns.into_iter().chain([None]).collect(),
        };
        Step { columns, indirect }
    }

    fn distinct(&self, distinct: &Distinct, outer: Option<&Scope<'_>>) -> Step {
        match distinct {
            Distinct::All(input) => {
                let mut step = self.plan(input, outer);
                for column in step.columns.iter().flatten() {
                    step.indirect.add(column.clone().only(How::GroupBy));
                }
                step
            }
            Distinct::On(on) => {
                let input = self.plan(&on.input, outer);
                let scope = Scope::of(&on.input, &input, outer);
                let columns = self.values(&on.select_expr, &scope);
                let keys = self.used(&on.on_expr, How::GroupBy, &scope);
                let order = on.sort_expr.iter().flatten().map(|key| &key.expr);
                let order = self.used(order, How::Sort, &scope);
                let mut indirect = input.indirect;
                indirect.add(keys);
                indirect.add(order);
                Step { columns, indirect }
            }
        }
    }

    fn unnest(&self, unnest: &Unnest, outer: Option<&Scope<'_>>) -> Step {
        let input = self.plan(&unnest.input, outer);
        let taken_apart = |at: &usize| {
            unnest.list_type_columns.iter().any(|(list, _)| list == at)
                || unnest.struct_type_columns.contains(at)
        };
        let column = |at: &usize| {
            let sources = input.columns.get(*at).cloned().flatten();
            match taken_apart(at) {
                true => sources.map(|sources| sources.made(How::Transformation)),
                false => sources,
            }
        };
        let columns = unnest.dependency_indices.iter().map(column).collect();
        Step { columns, indirect: input.indirect }
    }

    fn values<'e>(
        &self,
        expressions: impl IntoIterator<Item = &'e Expr>,
        scope: &Scope<'_>,
    ) -> Vec<Option<Sources>> {
        expressions.into_iter().map(|expression| self.value(expression, scope)).collect()
    }

    /// What expressions are made of that decide something.
    fn used<'e>(
        &self,
        expressions: impl IntoIterator<Item = &'e Expr>,
        how: How,
        scope: &Scope<'_>,
    ) -> Sources {
        let mut used = Sources::default();
        for sources in self.values(expressions, scope).into_iter().flatten() {
            used.add(sources.only(how));
        }
        used
    }

    /// What a value is made of; `None` if that isn't known.
    fn value(&self, expression: &Expr, scope: &Scope<'_>) -> Option<Sources> {
        match expression {
            Expr::Column(column) => scope.find(column).flatten(),
            Expr::OuterReferenceColumn(_, column) => scope.find_outer(column).flatten(),
            Expr::Alias(alias) => self.value(&alias.expr, scope),
            Expr::Case(case) => self.case(case, scope),
            Expr::AggregateFunction(aggregate) => {
                let params = &aggregate.params;
                let mut made = self.made_of(&params.args, How::Aggregation, scope)?;
                made.add(self.used(params.filter.as_deref(), How::Filter, scope));
                let order = params.order_by.iter().map(|key| &key.expr);
                made.add(self.used(order, How::Sort, scope));
                Some(made)
            }
            Expr::WindowFunction(window) => {
                let params = &window.params;
                let mut made = self.made_of(&params.args, How::Aggregation, scope)?;
                made.add(self.used(params.filter.as_deref(), How::Filter, scope));
                let order = params.order_by.iter().map(|key| &key.expr);
                made.add(self.used(params.partition_by.iter().chain(order), How::Window, scope));
                Some(made)
            }
            Expr::Exists(exists) => {
                // There are rows or not, whatever is in them.
                Some(self.subquery(&exists.subquery, scope).indirect.only(How::Conditional))
            }
            Expr::InSubquery(within) => {
                let mut made = self.value(&within.expr, scope)?.made(How::Transformation);
                made.add(self.looked_up(&within.subquery, scope));
                Some(made)
            }
            Expr::SetComparison(comparison) => {
                let mut made = self.value(&comparison.expr, scope)?.made(How::Transformation);
                made.add(self.looked_up(&comparison.subquery, scope));
                Some(made)
            }
            Expr::ScalarSubquery(subquery) => {
                let Step { columns, indirect } = self.subquery(subquery, scope);
                let mut made = columns.into_iter().next()??.made(How::Transformation);
                made.add(indirect);
                Some(made)
            }
            other => {
                let mut children = Vec::new();
                let gathered = other.apply_children(|child| {
                    children.push(child);
                    Ok(TreeNodeRecursion::Continue)
                });
                gathered.ok()?;
                self.made_of(children, How::Transformation, scope)
            }
        }
    }

    /// What is made of several values.
    fn made_of<'e>(
        &self,
        expressions: impl IntoIterator<Item = &'e Expr>,
        how: How,
        scope: &Scope<'_>,
    ) -> Option<Sources> {
        let mut made = Sources::default();
        for sources in self.values(expressions, scope) {
            made.add(sources?.made(how));
        }
        Some(made)
    }

    fn case(&self, case: &Case, scope: &Scope<'_>) -> Option<Sources> {
        let branches = &case.when_then_expr;
        let results =
            branches.iter().map(|(_, then)| then.as_ref()).chain(case.else_expr.as_deref());
        let mut made = self.made_of(results, How::Transformation, scope)?;
        let conditions = branches.iter().map(|(when, _)| when.as_ref());
        made.add(self.used(
            case.expr.as_deref().into_iter().chain(conditions),
            How::Conditional,
            scope,
        ));
        Some(made)
    }

    fn subquery(&self, subquery: &Subquery, scope: &Scope<'_>) -> Step {
        self.plan(&subquery.subquery, Some(scope))
    }

    /// What a subquery is made of that something is looked for in.
    fn looked_up(&self, subquery: &Subquery, scope: &Scope<'_>) -> Sources {
        let Step { columns, indirect } = self.subquery(subquery, scope);
        let mut all = indirect;
        for column in columns.into_iter().flatten() {
            all.add(column);
        }
        all.only(How::Conditional)
    }
}

fn merged(one: Option<Sources>, other: Option<Sources>) -> Option<Sources> {
    let (mut one, other) = (one?, other?);
    one.add(other);
    Some(one)
}

#[cfg(test)]
mod tests;
