-- PageRank is a distribution.
SELECT sum(rank) AS sum, min(rank) AS smallest
FROM graph.movie_rank.ranks
HAVING abs(sum(rank) - 1) > 1e-9 OR min(rank) <= 0;
