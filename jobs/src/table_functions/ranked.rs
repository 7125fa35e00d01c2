//! `ml_recommend` and `ml_similar_items`: ranked items for users and for items.

use super::arguments::{Arguments, Rows};
use super::model::{Factorization, Model, column, scan};
use crate::operator::{Operator, OperatorNode, WithItems, Work};
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::error::Result as PlanResult;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, LogicalPlanBuilder, cast, lit};

/// The columns of users that the operator takes, after the id.
const FACTORS: [&str; 3] = ["factors", "bias", "seen_items"];

pub(super) fn recommend(model: &Model, arguments: &Arguments<'_>) -> PlanResult<LogicalPlan> {
    arguments.count(&[2, 3])?;
    let k = arguments.k(1)?;
    let model = model.factorization(arguments.function())?;
    let given = arguments.optional_rows(2, "users")?;
    model.recommend(k, given.as_ref())
}

pub(super) fn similar_items(model: &Model, arguments: &Arguments<'_>) -> PlanResult<LogicalPlan> {
    arguments.count(&[2, 3])?;
    let k = arguments.k(1)?;
    let model = model.factorization(arguments.function())?;
    let item = model.item();
    let mut items = scan("items", model.items)?;
    if let Some(given) = arguments.optional_rows(2, "items")? {
        let same = given.id(&item)?.eq(column("items", item.name()));
        items = items.join_on(given.plan, JoinType::LeftSemi, [same])?;
    }
    let items =
        items.project([item.name(), "item_index"].map(|name| column("items", name)))?.build()?;
    model.ranked(Work::Similar { k }, items, item.name(), "similar_item")
}

impl Factorization<'_> {
    /// The `k` best unseen items of each of the users: of those that `given` names, or that have
    /// factors there, or of all that the model knows.
    pub(super) fn recommend(&self, k: usize, given: Option<&Rows<'_>>) -> PlanResult<LogicalPlan> {
        let user = self.user();
        let users = match given {
            Some(given) if given.find("factors")?.is_some() => self.folded_in(given)?,
            _ => {
                let mut users = scan("users", self.users)?;
                if let Some(given) = given {
                    let same = given.id(&user)?.eq(column("users", user.name()));
                    users = users.join_on(given.plan.clone(), JoinType::LeftSemi, [same])?;
                }
                let columns = [user.name().as_str()].into_iter().chain(FACTORS);
                users.project(columns.map(|name| column("users", name)))?.build()?
            }
        };
        self.ranked(Work::Recommend { k }, users, user.name(), self.item().name())
    }

    /// Users who bring their factors with them; a missing bias is 0, missing seen items are none.
    fn folded_in(&self, given: &Rows<'_>) -> PlanResult<LogicalPlan> {
        let user = self.user();
        let schema = self.users.schema();
        let mut columns = vec![given.id(&user)?.alias(user.name())];
        for name in FACTORS {
            let data_type = schema.field_with_name(name)?.data_type();
            let value = match given.find(name)? {
                Some((found, _)) => cast(found, data_type.clone()),
                None => lit(ScalarValue::try_from(data_type)?),
            };
            columns.push(value.alias(name));
        }
        let known = column(Rows::ALIAS, "factors").is_not_null();
        LogicalPlanBuilder::from(given.plan.clone()).filter(known)?.project(columns)?.build()
    }

    /// Does the work on rows whose first column is `id`, and gives the items that come of it, in the
    /// column `item`, their ids back.
    fn ranked(
        &self,
        work: Work,
        rows: LogicalPlan,
        id: &str,
        item: &str,
    ) -> PlanResult<LogicalPlan> {
        let with_items = WithItems { items: self.items.spec.clone(), work };
        let best = OperatorNode::plan(Operator::WithItems(with_items), Some(rows))?;
        let own = self.item();
        let items = scan("items", self.items)?
            .project([own.name(), "item_index"].map(|name| column("items", name)))?
            .alias("items")?
            .build()?;
        let same = column("best", "item_index").eq(column("items", "item_index"));
        let columns: [Expr; 4] = [
            column("best", id).alias(id),
            column("best", "rank").alias("rank"),
            column("items", own.name()).alias(item),
            column("best", "score").alias("score"),
        ];
        LogicalPlanBuilder::from(best)
            .alias("best")?
            .join_on(items, JoinType::Inner, [same])?
            .project(columns)?
            .build()
    }
}
