//! `ndcg_at_k(rank, relevance, k)`: how much of the gain of the best possible ranking there is.

use super::ranking::{ARGUMENTS, Measure, Ranking};
use super::reference::{Page, RANKING};
use datafusion::logical_expr::Documentation;
use std::sync::LazyLock;

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    Page {
        section: RANKING,
        syntax: NdcgAtK::SYNTAX,
        description: "The normalized discounted cumulative gain of the first `k` recommended items: the sum of \
            `relevance / log2(1 + rank)`, divided by that of the best possible ranking of the group's \
            items. The gain is the relevance itself, as in Järvelin and Kekäläinen, \"Cumulated gain-based \
            evaluation of IR techniques\" (2002); for the exponential gain pass `power(2, relevance) - 1`. A \
            group is a user, a row an item that is relevant or was recommended. DOUBLE, NULL if nothing is \
            relevant.",
        arguments: ARGUMENTS,
        example: "SELECT round(ndcg_at_k(rank, relevance, 3), 6) AS ndcg\n\
            FROM (VALUES (1, 0), (2, 3), (3, 1), (NULL, 2)) AS ann(rank, relevance)\n-- 0.502491",
    }
    .documentation()
});

/// The measure of `ndcg_at_k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NdcgAtK;

impl Measure for NdcgAtK {
    const NAME: &'static str = "ndcg_at_k";
    const SYNTAX: &'static str = "ndcg_at_k(rank, relevance, k)";

    fn documentation() -> &'static Documentation {
        &DOCUMENTATION
    }

    fn of(ranking: &Ranking) -> f64 {
        // Sums start at 0, since `sum` makes -0 of nothing.
        let discounted =
            |sum: f64, rank: f64, relevance: f64| sum + relevance / (1.0 + rank).log2();
        let hits = ranking.hits.iter();
        let gain = hits.fold(0.0, |sum, (rank, r)| discounted(sum, *rank as f64, *r));
        let ideal = ranking.ideal.iter().zip(1..);
        gain / ideal.fold(0.0, |sum, (r, rank)| discounted(sum, f64::from(rank), *r))
    }
}
