//! `ml_fold_in`: factors of users from their interactions.

use super::arguments::Arguments;
use super::model::{Model, column, scan};
use crate::operator::{
    FoldIn, INTERACTION_ITEM, INTERACTION_WEIGHT, Operator, OperatorNode, WithItems, Work,
};
use arrow::datatypes::DataType;
use datafusion::error::Result as PlanResult;
use datafusion::logical_expr::{JoinType, LogicalPlan, LogicalPlanBuilder, cast, lit};
use nightshift_udfs::als::Solver;

pub(super) fn plan(model: &Model, arguments: &Arguments<'_>) -> PlanResult<LogicalPlan> {
    arguments.count(&[2])?;
    let model = model.factorization(arguments.function())?;
    let given = arguments.rows(1, "interactions")?;
    let (user, item) = (model.user(), model.item());
    let same = given.id(&item)?.eq(column("items", item.name()));
    let weight = cast(given.number(&model.spec.rating)?, DataType::Float64);
    // The id gets the type that it has in the model.
    let id = cast(given.id(&user)?, user.data_type().clone()).alias(user.name());
    let items = scan("items", model.items)?
        .project([item.name(), "item_index"].map(|name| column("items", name)))?
        .build()?;
    let interaction = arguments.scalar(
        "named_struct",
        vec![lit(INTERACTION_ITEM), column("items", "item_index"), lit(INTERACTION_WEIGHT), weight],
    )?;
    let known = LogicalPlanBuilder::from(given.plan.clone())
        .join_on(items, JoinType::Inner, [same])?
        .project([id, interaction.alias("interaction")])?
        .alias("known")?;
    let gathered = arguments.aggregate("array_agg", vec![column("known", "interaction")])?;
    let users = known
        .aggregate([column("known", user.name())], [gathered.alias("interactions")])?
        .build()?;
    let fold = FoldIn {
        feedback: model.feedback()?,
        regularization: model.regularization()?,
        nonnegative: model.spec.solver == Some(Solver::NonNegative),
        factors: model.spec.factors,
    };
    let with_items = WithItems { items: model.items.spec.clone(), work: Work::FoldIn(fold) };
    OperatorNode::plan(Operator::WithItems(with_items), Some(users))
}
