-- How well recommendations meet what users rated later, beside recommending what is popular to all.
--
-- recall: share of a user's held-out movies that are recommended. ndcg: discounted by rank, relative
-- to the best order. map: mean precision at the ranks of the hits. coverage: share of the catalogue
-- that is recommended to anybody. rmse: of predicted ratings, the baseline predicting the movie's mean.

CREATE OR REPLACE TABLE recs.metrics AS
WITH train AS (
    SELECT user_id, movie_id, rating FROM features.ratings WHERE split = 'train'
),
holdout AS (
    SELECT user_id, movie_id, rating FROM features.ratings WHERE split = 'holdout'
),
popularity AS (
    SELECT movie_id, count(*) AS ratings, avg(rating) AS mean FROM train GROUP BY movie_id
),
popular AS (
    SELECT
        u.user_id,
        p.movie_id,
        row_number() OVER (PARTITION BY u.user_id ORDER BY p.ratings DESC, p.movie_id) AS rank
    FROM (SELECT DISTINCT user_id FROM train) AS u
    CROSS JOIN popularity AS p
    LEFT ANTI JOIN train AS seen ON seen.user_id = u.user_id AND seen.movie_id = p.movie_id
),
recommended AS (
    SELECT 'als' AS model, user_id, movie_id, CAST(rank AS BIGINT) AS rank
    FROM ml_recommend('recs.als', 20)
    UNION ALL
    SELECT 'most_popular' AS model, user_id, movie_id, CAST(rank AS BIGINT) AS rank
    FROM popular
    WHERE rank <= 20
),
relevant AS (
    SELECT user_id, count(*) AS movies FROM holdout GROUP BY user_id
),
hits AS (
    SELECT
        r.model,
        r.user_id,
        r.rank,
        row_number() OVER (PARTITION BY r.model, r.user_id ORDER BY r.rank) AS found
    FROM recommended AS r
    JOIN holdout AS h ON r.user_id = h.user_id AND r.movie_id = h.movie_id
),
ranks AS (
    SELECT unnest(generate_series(1, 20)) AS rank
),
ideal AS (
    SELECT n.rank AS movies, sum(1 / log2(1 + i.rank)) AS gain
    FROM ranks AS n
    JOIN ranks AS i ON i.rank <= n.rank
    GROUP BY n.rank
),
models AS (
    SELECT 'als' AS model UNION ALL SELECT 'most_popular'
),
cutoffs AS (
    SELECT 10 AS k UNION ALL SELECT 20
),
per_user AS (
    SELECT
        m.model,
        c.k,
        r.user_id,
        r.movies,
        count(h.rank) AS found,
        coalesce(sum(1 / log2(1 + h.rank)), 0) AS gain,
        coalesce(sum(CAST(h.found AS DOUBLE) / h.rank), 0) AS precision
    FROM models AS m
    CROSS JOIN cutoffs AS c
    CROSS JOIN relevant AS r
    LEFT JOIN hits AS h ON h.model = m.model AND h.user_id = r.user_id AND h.rank <= c.k
    GROUP BY m.model, c.k, r.user_id, r.movies
),
ranking AS (
    SELECT
        p.model,
        p.k,
        avg(CAST(p.found AS DOUBLE) / p.movies) AS recall,
        avg(p.gain / i.gain) AS ndcg,
        avg(p.precision / least(p.movies, p.k)) AS map
    FROM per_user AS p
    JOIN ideal AS i ON i.movies = least(p.movies, p.k)
    GROUP BY p.model, p.k
),
coverage AS (
    SELECT r.model, CAST(count(DISTINCT r.movie_id) AS DOUBLE) / any_value(c.movies) AS coverage
    FROM recommended AS r
    CROSS JOIN (SELECT count(*) AS movies FROM features.movies) AS c
    WHERE r.rank <= 10
    GROUP BY r.model
),
errors AS (
    SELECT
        sqrt(avg(power(h.rating - (inner_product(u.factors, i.factors) + u.bias + i.bias), 2))) AS als,
        sqrt(avg(power(h.rating - p.mean, 2))) AS most_popular
    FROM holdout AS h
    JOIN recs.als_explicit.user_factors AS u ON u.user_id = h.user_id
    JOIN recs.als_explicit.item_factors AS i ON i.movie_id = h.movie_id
    JOIN popularity AS p ON p.movie_id = h.movie_id
),
measured AS (
    SELECT model, concat('recall@', k) AS metric, recall AS value FROM ranking
    UNION ALL
    SELECT model, concat('ndcg@', k) AS metric, ndcg AS value FROM ranking
    UNION ALL
    SELECT model, 'map@10' AS metric, map AS value FROM ranking WHERE k = 10
    UNION ALL
    SELECT model, 'coverage@10' AS metric, coverage AS value FROM coverage
    UNION ALL
    SELECT 'als' AS model, 'rmse' AS metric, als AS value FROM errors
    UNION ALL
    SELECT 'most_popular' AS model, 'rmse' AS metric, most_popular AS value FROM errors
)
SELECT
    metric,
    max(value) FILTER (WHERE model = 'als') AS als,
    max(value) FILTER (WHERE model = 'most_popular') AS most_popular,
    max(value) FILTER (WHERE model = 'als') / max(value) FILTER (WHERE model = 'most_popular') - 1
        AS difference
FROM measured
GROUP BY metric
ORDER BY metric;
