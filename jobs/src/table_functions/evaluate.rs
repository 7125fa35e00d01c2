//! `ml_evaluate`: how well a model meets what was held out.

use super::arguments::{Arguments, Rows};
use super::model::{Factorization, Model, column, scan};
use arrow::datatypes::{DataType, Field};
use datafusion::common::Column;
use datafusion::error::Result as PlanResult;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, LogicalPlanBuilder, cast, lit};

/// The measures of rankings: the name of the result and the function that computes it.
const MEASURES: [(&str, &str); 3] = [
    ("recall_at_k", "recall_at_k"),
    ("ndcg_at_k", "ndcg_at_k"),
    ("map_at_k", "average_precision_at_k"),
];

pub(super) fn plan(model: &Model, arguments: &Arguments<'_>) -> PlanResult<LogicalPlan> {
    arguments.count(&[2, 3])?;
    let model = model.factorization(arguments.function())?;
    let holdout = arguments.rows(1, "held-out pairs")?;
    let k = match arguments.len() {
        2 => None,
        _ => Some(arguments.k(2)?),
    };
    match (model.spec.implicit, k) {
        (true, Some(k)) => model.ranking(arguments, &holdout, k),
        (true, None) => Err(arguments.usage()),
        (false, _) => model.errors(arguments, &holdout),
    }
}

impl Factorization<'_> {
    /// How far predictions are from the values of pairs.
    fn errors(&self, arguments: &Arguments<'_>, holdout: &Rows<'_>) -> PlanResult<LogicalPlan> {
        let value = cast(holdout.number(&self.spec.rating)?, DataType::Float64);
        let (pairs, score) = self.scored(arguments, holdout)?;
        let aggregate = |name: &str, of: Expr| arguments.aggregate(name, vec![of]);
        let of = |name: &str| Expr::Column(Column::from_name(name));
        let error = || of("error");
        let absolute = arguments.scalar("abs", vec![error()])?;
        let measured = [
            aggregate("count", error())?.alias("pairs"),
            aggregate("avg", error() * error())?.alias("square"),
            aggregate("avg", absolute)?.alias("mae"),
        ];
        let root = arguments.scalar("sqrt", vec![of("square")])?;
        pairs
            .project([(value - score).alias("error")])?
            .aggregate(Vec::<Expr>::new(), measured)?
            .project([of("pairs"), root.alias("rmse"), of("mae")])?
            .build()
    }

    /// How well recommendations meet pairs.
    fn ranking(
        &self,
        arguments: &Arguments<'_>,
        holdout: &Rows<'_>,
        k: usize,
    ) -> PlanResult<LogicalPlan> {
        let (user, item) = (self.user(), self.item());
        let relevant = self.relevant(holdout)?;
        let evaluated = Rows::of(arguments, "held-out pairs", relevant.clone())?;
        let recommended = self.recommend(k, Some(&evaluated))?;
        let recommended = LogicalPlanBuilder::from(recommended).alias("recommended")?.build()?;

        let same = |name: &str| column("relevant", name).eq(column("recommended", name));
        let rank = || column("recommended", "rank");
        let mut per_user = Vec::new();
        let mut totals = vec![
            arguments.aggregate("count", vec![column("measured", user.name())])?.alias("users"),
        ];
        for (name, function) in MEASURES {
            let measure = vec![rank(), lit(true), lit(k as i64)];
            per_user.push(arguments.aggregate(function, measure)?.alias(name));
            totals.push(arguments.aggregate("avg", vec![column("measured", name)])?.alias(name));
        }
        let totals = LogicalPlanBuilder::from(relevant)
            .alias("relevant")?
            .join_on(recommended.clone(), JoinType::Left, [same(user.name()), same(item.name())])?
            .aggregate([column("relevant", user.name())], per_user)?
            .alias("measured")?
            .aggregate(Vec::<Expr>::new(), totals)?
            .alias("totals")?;

        let count = |of: Expr| arguments.aggregate("count", vec![of]);
        let covered = LogicalPlanBuilder::from(recommended)
            .project([column("recommended", item.name()).alias("item")])?
            .distinct()?
            .alias("covered")?
            .aggregate(Vec::<Expr>::new(), [count(column("covered", "item"))?.alias("items")])?
            .alias("covered")?
            .build()?;
        let catalogue = scan("items", self.items)?
            .aggregate(Vec::<Expr>::new(), [count(column("items", "item_index"))?.alias("items")])?
            .alias("catalogue")?
            .build()?;
        let items = |table: &str| cast(column(table, "items"), DataType::Float64);
        let mut columns = vec![column("totals", "users").alias("users")];
        columns.extend(MEASURES.map(|(name, _)| column("totals", name).alias(name)));
        columns.push((items("covered") / items("catalogue")).alias("coverage"));
        totals.cross_join(covered)?.cross_join(catalogue)?.project(columns)?.build()
    }

    /// The pairs that should be recommended: those of positive weight, if there are weights, of users
    /// that the model knows.
    fn relevant(&self, holdout: &Rows<'_>) -> PlanResult<LogicalPlan> {
        let (user, item) = (self.user(), self.item());
        let same = holdout.id(&user)?.eq(column("users", user.name()));
        let mut pairs = LogicalPlanBuilder::from(holdout.plan.clone());
        if holdout.find(&self.spec.rating)?.is_some() {
            pairs = pairs.filter(holdout.number(&self.spec.rating)?.gt(lit(0)))?;
        }
        let users = scan("users", self.users)?.project([column("users", user.name())])?.build()?;
        // Ids get the types that they have in the model.
        let id = |field: &Field| -> PlanResult<Expr> {
            Ok(cast(holdout.id(field)?, field.data_type().clone()).alias(field.name()))
        };
        pairs
            .join_on(users, JoinType::LeftSemi, [same])?
            .filter(holdout.id(&item)?.is_not_null())?
            .project([id(&user)?, id(&item)?])?
            .distinct()?
            .build()
    }
}
