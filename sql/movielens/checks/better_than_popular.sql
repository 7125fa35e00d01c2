-- A model that is hardly better than recommending the same to everybody is not worth publishing.
SELECT metric, als, most_popular, difference
FROM recs.metrics
WHERE metric = 'ndcg@20' AND NOT coalesce(difference >= 0.6, false);
