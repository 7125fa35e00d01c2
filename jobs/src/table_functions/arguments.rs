//! The arguments of a function of a model: literals, and tables or queries.

use super::Question;
use super::model::{Model, Models};
use arrow::datatypes::{DataType, Field};
use datafusion::catalog::{Session, TableFunctionArgs};
use datafusion::common::{Column, ExprSchema, ScalarValue, plan_err};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::logical_expr::expr::Exists;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

/// The arguments of one call.
pub(super) struct Arguments<'a> {
    question: Question,
    exprs: &'a [Expr],
    session: &'a dyn Session,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(question: Question, args: &TableFunctionArgs<'a, 'a>) -> Self {
        Self { question, exprs: args.exprs(), session: args.session() }
    }

    /// The name of the function.
    pub(super) fn function(&self) -> &'static str {
        self.question.function()
    }

    /// The error of a call that has another form than the reference says.
    pub(super) fn usage(&self) -> DataFusionError {
        DataFusionError::Plan(format!("usage: {}", self.question.page().syntax))
    }

    /// An error of this call.
    pub(super) fn error(&self, reason: &str) -> DataFusionError {
        DataFusionError::Plan(format!("{}: {reason}", self.function()))
    }

    /// Checks the number of arguments.
    pub(super) fn count(&self, allowed: &[usize]) -> PlanResult<()> {
        if allowed.contains(&self.exprs.len()) { Ok(()) } else { Err(self.usage()) }
    }

    /// The model that the first argument names.
    pub(super) fn model<'m>(&self, models: &'m Models) -> PlanResult<&'m Model> {
        let Some(Expr::Literal(name, _)) = self.exprs.first() else { return Err(self.usage()) };
        let Some(Some(name)) = name.try_as_str() else { return Err(self.usage()) };
        models.get(name)
    }

    /// The positive number at a position.
    pub(super) fn k(&self, position: usize) -> PlanResult<usize> {
        let Some(Expr::Literal(k, _)) = self.exprs.get(position) else { return Err(self.usage()) };
        let number = match k {
            ScalarValue::Int64(Some(k)) => usize::try_from(*k).ok(),
            ScalarValue::UInt64(Some(k)) => usize::try_from(*k).ok(),
            _ => return Err(self.usage()),
        };
        // Ranks are INTEGER.
        let number = number.filter(|k| (1..=i32::MAX as usize).contains(k));
        number.ok_or_else(|| self.error(&format!("k is {k}, it must be from 1 to {}", i32::MAX)))
    }

    /// The rows of the table or query at a position; `what` says what they are.
    pub(super) fn rows(&self, position: usize, what: &'static str) -> PlanResult<Rows<'_>> {
        let Some(Expr::Exists(Exists { subquery, negated: false })) = self.exprs.get(position)
        else {
            return Err(self.usage());
        };
        if !subquery.outer_ref_columns.is_empty() {
            let reason = format!("the query of {what} refers to columns of the query around it");
            return Err(self.error(&reason));
        }
        Rows::of(self, what, subquery.subquery.as_ref().clone())
    }

    /// The same, if there is such an argument.
    pub(super) fn optional_rows(
        &self,
        position: usize,
        what: &'static str,
    ) -> PlanResult<Option<Rows<'_>>> {
        match self.exprs.len() > position {
            true => self.rows(position, what).map(Some),
            false => Ok(None),
        }
    }

    /// How many arguments there are.
    pub(super) fn len(&self) -> usize {
        self.exprs.len()
    }

    /// A call of a scalar function of the session.
    pub(super) fn scalar(&self, name: &str, args: Vec<Expr>) -> PlanResult<Expr> {
        match self.session.scalar_functions().get(name) {
            Some(function) => Ok(function.call(args)),
            None => plan_err!("the session has no function {name}"),
        }
    }

    /// A call of an aggregate function of the session.
    pub(super) fn aggregate(&self, name: &str, args: Vec<Expr>) -> PlanResult<Expr> {
        match self.session.aggregate_functions().get(name) {
            Some(function) => Ok(function.call(args)),
            None => plan_err!("the session has no function {name}"),
        }
    }
}

/// Rows that were given as an argument.
pub(super) struct Rows<'a> {
    arguments: &'a Arguments<'a>,
    what: &'static str,
    /// The rows, whose columns are qualified by [`Rows::ALIAS`].
    pub(super) plan: LogicalPlan,
}

impl<'a> Rows<'a> {
    /// The name that the rows have in plans.
    pub(super) const ALIAS: &'static str = "given";

    /// The rows of a plan; `what` says what they are.
    pub(super) fn of(
        arguments: &'a Arguments<'a>,
        what: &'static str,
        plan: LogicalPlan,
    ) -> PlanResult<Self> {
        let plan = LogicalPlanBuilder::from(plan).alias(Self::ALIAS)?.build()?;
        Ok(Self { arguments, what, plan })
    }

    fn error(&self, reason: &str) -> DataFusionError {
        self.arguments.error(reason)
    }

    /// A column of the rows and its type, if there is one of the name.
    pub(super) fn find(&self, name: &str) -> PlanResult<Option<(Expr, DataType)>> {
        let column = Column::new(Some(Self::ALIAS), name);
        if !self.plan.schema().has_column(&column) {
            return Ok(None);
        }
        let data_type = self.plan.schema().field_from_column(&column)?.data_type().clone();
        Ok(Some((Expr::Column(column), data_type)))
    }

    /// A column of the rows and its type.
    fn column(&self, name: &str) -> PlanResult<(Expr, DataType)> {
        self.find(name)?.ok_or_else(|| {
            let fields = self.plan.schema().fields().iter();
            let names: Vec<_> = fields.map(|field| field.name().as_str()).collect();
            let (what, names) = (self.what, names.join(", "));
            self.error(&format!("the {what} have no column {name}, only {names}"))
        })
    }

    /// The column of an id, which must be of the kind that it has in the model.
    pub(super) fn id(&self, model: &Field) -> PlanResult<Expr> {
        let name = model.name();
        let (column, data_type) = self.column(name)?;
        if comparable(&data_type, model.data_type()) {
            return Ok(column);
        }
        let (what, known) = (self.what, model.data_type());
        Err(self.error(&format!(
            "column {name} of the {what} is a {data_type}, the model's is a {known}: cast it"
        )))
    }

    /// A column of numbers.
    pub(super) fn number(&self, name: &str) -> PlanResult<Expr> {
        let (column, data_type) = self.column(name)?;
        if data_type.is_numeric() || data_type.is_null() {
            return Ok(column);
        }
        let what = self.what;
        Err(self.error(&format!("column {name} of the {what} is a {data_type}, not a number")))
    }

    /// Refuses rows that have a column of this name already.
    pub(super) fn lacks(&self, name: &str) -> PlanResult<()> {
        match self.find(name)? {
            None => Ok(()),
            Some(_) => {
                let what = self.what;
                Err(self.error(&format!("the {what} have a column {name} already: leave it out")))
            }
        }
    }
}

/// Whether ids of two types can be equal.
fn comparable(a: &DataType, b: &DataType) -> bool {
    let kind = |data_type: &DataType| {
        if data_type.is_integer() || matches!(data_type, DataType::Decimal128(_, _)) {
            return Some("number");
        }
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some("text"),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Some("bytes"),
            DataType::Timestamp(_, _) => Some("time"),
            _ => None,
        }
    };
    a == b || a.is_null() || kind(a).is_some_and(|known| kind(b) == Some(known))
}
