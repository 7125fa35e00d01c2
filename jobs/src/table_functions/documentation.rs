//! The documentation of the functions in `FROM`: data, of which `system.functions` and the reference page
//! are made.

use super::Question;
use super::about::{COLUMNS, HISTORY};
use datafusion::logical_expr::{DocSection, Documentation};

/// Sections of the page.
const MODELS: &str = "Models";
pub(super) const TABLES: &str = "Tables";

/// A function as the page shows it.
pub(super) struct Page {
    pub(super) name: &'static str,
    pub(super) section: &'static str,
    pub(super) syntax: &'static str,
    pub(super) description: &'static str,
    pub(super) arguments: &'static [(&'static str, &'static str)],
    pub(super) example: &'static str,
}

const MODEL: (&str, &str) =
    ("model", "The model's name, as a text: `'schema.name'`. The published version is asked.");

const EVALUATE: Page = Page {
    name: "ml_evaluate",
    section: MODELS,
    syntax: "ml_evaluate(model, holdout[, k])",
    description: "How well a matrix factorization meets what was held out of training: one row.\n\n\
        For implicit feedback, `users` (who have a pair in the holdout and are known to the model), the means over \
        these users of `recall_at_k`, `ndcg_at_k` and `map_at_k` (by the functions of the same names, \
        `average_precision_at_k` for the last) for the `k` items that `ml_recommend` gives them, and `coverage`, the \
        share of the model's items that are recommended to at least one of them. A held-out item that the model \
        doesn't know counts as one that was not found. Measures are NULL when there is no such user.\n\n\
        For explicit feedback, `pairs` (of a user and an item that the model knows, with a value), and `rmse` and \
        `mae`, the root of the mean squared and the mean absolute difference between value and prediction.",
    arguments: &[
        MODEL,
        (
            "holdout",
            "Pairs, with the columns that the options `user_col` and `item_col` name: a table or a query. The column \
             that `rating_col` names must be there for explicit feedback; for implicit feedback, pairs count whose \
             weight is positive, or all pairs without that column. A pair counts once for implicit feedback.",
        ),
        (
            "k",
            "How many recommendations count, from 1; has no meaning for explicit feedback, where it can be left out.",
        ),
    ],
    example: "SELECT recall_at_k, ndcg_at_k FROM ml_evaluate('recs.als', 'features.holdout', 20)",
};

const FOLD_IN: Page = Page {
    name: "ml_fold_in",
    section: MODELS,
    syntax: "ml_fold_in(model, interactions)",
    description: "Factors of users from their interactions, for users whom a matrix factorization was not trained on, or \
        who have gone on since. Columns: the user, `factors`, `bias` and `seen_items`, as in the model's table \
        `user_factors`, so that `ml_recommend` takes the result as its users.\n\n\
        A user is solved against the model's final item factors with the options of its training (`wals_alpha`, \
        `l2_reg`, `l2_reg_exponent`, `bias`): the result is what the first half step of an iteration gives that \
        goes on from there. It differs a little from the model's own `user_factors`, which were solved against the \
        item factors of the iteration before.\n\n\
        Interactions with items that the model doesn't know, or with NULL, don't count; a user without any other has no \
        row. Several interactions with one item add up for implicit feedback, and are observations of their own for \
        explicit feedback, as in training. A user that is NULL and a weight that is NULL, NaN or infinite are errors.",
    arguments: &[
        MODEL,
        (
            "interactions",
            "Users, items and weights, in columns of the names that `user_col`, `item_col` and `rating_col` had in \
             training: a table or a query.",
        ),
    ],
    example: "SELECT * FROM ml_recommend('recs.als', 10, (SELECT * FROM ml_fold_in('recs.als', 'features.today')))",
};

const PREDICT: Page = Page {
    name: "ml_predict",
    section: MODELS,
    syntax: "ml_predict(model, pairs)",
    description: "Scores of given pairs of a user and an item: all columns of the rows, and `predicted_` with the name that \
        `rating_col` had in training, a DOUBLE: `inner_product(u.factors, i.factors) + u.bias + i.bias`. It is NULL for \
        a user or an item that a matrix factorization doesn't know. The rank of a node is read from the table `ranks` of \
        a pagerank model instead.",
    arguments: &[
        MODEL,
        (
            "pairs",
            "Rows with the columns that the options `user_col` and `item_col` name: a table or a query.",
        ),
    ],
    example: "SELECT user_id, item_id, predicted_rating FROM ml_predict('recs.als', (SELECT 7 AS user_id, 42 AS item_id))",
};

const RECOMMEND: Page = Page {
    name: "ml_recommend",
    section: MODELS,
    syntax: "ml_recommend(model, k[, users])",
    description: "The `k` items of the highest scores for every user of a matrix factorization, without those that the \
        training data has for the user. Columns: the user, `rank` from 1, the item, `score`. Who has seen nearly all \
        items gets fewer than `k`. Among equal scores, the item that comes first in the order of ids is the better.",
    arguments: &[
        MODEL,
        ("k", "How many items a user gets, from 1."),
        (
            "users",
            "The users that are meant: a table or a query with the column that `user_col` names. A user that the model \
             doesn't know has no rows, and one that comes twice has them once. If there is a column `factors`, it is \
             taken instead of the model's, as are `bias` (0 if it is missing) and `seen_items` (numbers of items not to be \
             recommended, `item_index` of the table `item_factors`; none if it is missing), and every row is a user.",
        ),
    ],
    example: "SELECT * FROM ml_recommend('recs.als', 10, (SELECT user_id FROM features.active))",
};

const SIMILAR_ITEMS: Page = Page {
    name: "ml_similar_items",
    section: MODELS,
    syntax: "ml_similar_items(model, k[, items])",
    description: "The `k` items most similar to each item of a matrix factorization, by the cosine of their factors. \
        Columns: the item, `rank` from 1, `similar_item`, `score` from -1 to 1. Biases have no part in it. An item whose \
        factors are all 0 has no similar items and is similar to none. Among equal scores, the item that comes first in \
        the order of ids is the better.",
    arguments: &[
        MODEL,
        ("k", "How many similar items an item gets, from 1."),
        (
            "items",
            "The items that are meant: a table or a query with the column that `item_col` names. An item that the model \
             doesn't know has no rows.",
        ),
    ],
    example: "SELECT * FROM ml_similar_items('recs.als', 5, (SELECT 42 AS item_id))",
};

const TRAINING_INFO: Page = Page {
    name: "ml_training_info",
    section: MODELS,
    syntax: "ml_training_info(model)",
    description: "The iterations of a model's training: the columns of its table `training_info`, which are `iteration` and, \
        for a matrix factorization, `loss`, for pagerank `change` and `error_bound`, and the `seconds` that each took.",
    arguments: &[MODEL],
    example: "SELECT * FROM ml_training_info('recs.als') ORDER BY iteration",
};

const WEIGHTS: Page = Page {
    name: "ml_weights",
    section: MODELS,
    syntax: "ml_weights(model)",
    description: "The factors of both sides of a matrix factorization in one table: `processed_input`, the name of the user \
        column or of the item column, `feature`, the id as a text, `factor_weights`, a list of FLOAT, and `intercept`, \
        the bias. The tables `user_factors` and `item_factors` have the same with ids of their own types.",
    arguments: &[MODEL],
    example: "SELECT feature, factor_weights FROM ml_weights('recs.als') WHERE processed_input = 'item_id'",
};

impl Question {
    pub(super) fn page(self) -> &'static Page {
        match self {
            Question::Evaluate => &EVALUATE,
            Question::FoldIn => &FOLD_IN,
            Question::Predict => &PREDICT,
            Question::Recommend => &RECOMMEND,
            Question::SimilarItems => &SIMILAR_ITEMS,
            Question::TrainingInfo => &TRAINING_INFO,
            Question::Weights => &WEIGHTS,
        }
    }
}

/// The functions by name, with their documentation in the engine's form.
pub fn documentation() -> Vec<(&'static str, Documentation)> {
    let models = Question::ALL.map(Question::page);
    let pages = models.into_iter().chain([&COLUMNS, &HISTORY]);
    pages
        .map(|page| {
            let section = DocSection { include: true, label: page.section, description: None };
            let mut builder = Documentation::builder(section, page.description, page.syntax)
                .with_sql_example(page.example);
            for (name, description) in page.arguments {
                builder = builder.with_argument(*name, *description);
            }
            (page.name, builder.build())
        })
        .collect()
}

/// The reference page of all functions, in Markdown.
pub fn reference() -> String {
    nightshift_udfs::functions::reference(&documentation())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_of_functions_is_fresh() {
        crate::reference::check("functions.md", &reference());
    }
}
