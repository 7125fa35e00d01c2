//! `average_precision_at_k(rank, relevance, k)`: how early the relevant items come.

use super::ranking::{ARGUMENTS, Measure, Ranking};
use super::reference::{Page, RANKING};
use datafusion::logical_expr::Documentation;
use std::sync::LazyLock;

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    Page {
        section: RANKING,
        syntax: AveragePrecisionAtK::SYNTAX,
        description: "The mean precision at the ranks of the relevant items among the first `k` recommended: the \
            sum of `hits until there / rank`, divided by the number of relevant items or by `k`, whichever is \
            less, so that the best ranking has 1. Its `avg` over users is MAP@k. A group is a user, a row an \
            item that is relevant or was recommended. DOUBLE, NULL if nothing is relevant.",
        arguments: ARGUMENTS,
        example: "SELECT user_id, average_precision_at_k(rank, relevant, 2) AS ap\n\
            FROM (VALUES ('ann', 1, true), ('ann', 2, true), ('bob', 1, false), ('bob', 2, true))\n  \
            AS r(user_id, rank, relevant)\n\
            GROUP BY user_id ORDER BY user_id\n-- ann | 1.0\n-- bob | 0.5",
    }
    .documentation()
});

/// The measure of `average_precision_at_k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AveragePrecisionAtK;

impl Measure for AveragePrecisionAtK {
    const NAME: &'static str = "average_precision_at_k";
    const SYNTAX: &'static str = "average_precision_at_k(rank, relevance, k)";

    fn documentation() -> &'static Documentation {
        &DOCUMENTATION
    }

    fn of(ranking: &Ranking) -> f64 {
        let hits = ranking.hits.iter().zip(1..);
        // The sum starts at 0, since `sum` makes -0 of nothing.
        let precision =
            hits.fold(0.0, |sum, ((rank, _), hits)| sum + f64::from(hits) / *rank as f64);
        precision / (ranking.relevant as f64).min(ranking.k as f64)
    }
}
