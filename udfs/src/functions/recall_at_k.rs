//! `recall_at_k(rank, relevance, k)`: how much of what is relevant was recommended.

use super::ranking::{ARGUMENTS, Measure, Ranking};
use super::reference::{Page, RANKING};
use datafusion::logical_expr::Documentation;
use std::sync::LazyLock;

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    Page {
        section: RANKING,
        syntax: RecallAtK::SYNTAX,
        description: "The share of a user's relevant items that are among the first `k` recommended. A group is a \
            user, a row an item that is relevant or was recommended. DOUBLE, NULL if nothing is relevant.",
        arguments: ARGUMENTS,
        example: "SELECT recall_at_k(r.rank, true, 10) AS recall\n\
            FROM (VALUES ('ann', 1), ('ann', 2), ('ann', 3)) AS held_out(user_id, item_id)\n\
            LEFT JOIN (VALUES ('ann', 3, 1), ('ann', 8, 2)) AS r(user_id, item_id, rank)\n  \
            ON r.user_id = held_out.user_id AND r.item_id = held_out.item_id\n\
            GROUP BY held_out.user_id\n-- 0.3333333333333333",
    }
    .documentation()
});

/// The measure of `recall_at_k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecallAtK;

impl Measure for RecallAtK {
    const NAME: &'static str = "recall_at_k";
    const SYNTAX: &'static str = "recall_at_k(rank, relevance, k)";

    fn documentation() -> &'static Documentation {
        &DOCUMENTATION
    }

    fn of(ranking: &Ranking) -> f64 {
        ranking.hits.len() as f64 / ranking.relevant as f64
    }
}
