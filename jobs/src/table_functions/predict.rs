//! `ml_predict`: scores of pairs.

use super::arguments::{Arguments, Rows};
use super::model::{Factorization, Model, column, scan};
use datafusion::error::Result as PlanResult;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, LogicalPlanBuilder};

pub(super) fn plan(model: &Model, arguments: &Arguments<'_>) -> PlanResult<LogicalPlan> {
    arguments.count(&[2])?;
    let model = model.factorization(arguments.function())?;
    let given = arguments.rows(1, "pairs")?;
    let predicted = model.predicted_column();
    given.lacks(&predicted)?;
    let names = given.plan.schema().fields().iter().map(|field| field.name().clone());
    let mut columns: Vec<Expr> = names.map(|name| column(Rows::ALIAS, &name).alias(name)).collect();
    let (pairs, score) = model.scored(arguments, &given)?;
    columns.push(score.alias(predicted));
    pairs.project(columns)?.build()
}

impl Factorization<'_> {
    /// The name of the column of predictions.
    fn predicted_column(&self) -> String {
        format!("predicted_{}", self.spec.rating)
    }

    /// The pairs beside their factors, and the expression of their scores, which is NULL for a user or
    /// an item that the model doesn't know.
    pub(super) fn scored(
        &self,
        arguments: &Arguments<'_>,
        given: &Rows<'_>,
    ) -> PlanResult<(LogicalPlanBuilder, Expr)> {
        let (user, item) = (self.user(), self.item());
        let same_user = given.id(&user)?.eq(column("users", user.name()));
        let same_item = given.id(&item)?.eq(column("items", item.name()));
        let factors =
            |table: &'static str, id: &str| [id, "factors", "bias"].map(|name| column(table, name));
        let users = scan("users", self.users)?.project(factors("users", user.name()))?;
        let items = scan("items", self.items)?.project(factors("items", item.name()))?;
        let pairs = LogicalPlanBuilder::from(given.plan.clone())
            .join_on(users.build()?, JoinType::Left, [same_user])?
            .join_on(items.build()?, JoinType::Left, [same_item])?;
        let both = vec![column("users", "factors"), column("items", "factors")];
        let inner = arguments.scalar("inner_product", both)?;
        Ok((pairs, inner + column("users", "bias") + column("items", "bias")))
    }
}
