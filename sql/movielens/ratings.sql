-- One rating of a user for a movie, the latest. The last 20 % of each user's ratings are held out.

CREATE OR REPLACE TABLE features.ratings AS
WITH latest AS (
    SELECT
        user_id, movie_id, rating, rated_at,
        row_number() OVER (
            PARTITION BY user_id, movie_id ORDER BY rated_at DESC, rating DESC
        ) AS age
    FROM raw.ratings
),
numbered AS (
    SELECT
        user_id, movie_id, rating, rated_at,
        row_number() OVER (PARTITION BY user_id ORDER BY rated_at, movie_id) AS position,
        count(*) OVER (PARTITION BY user_id) AS ratings
    FROM latest
    WHERE age = 1
)
SELECT
    user_id,
    movie_id,
    rating,
    to_timestamp_seconds(rated_at) AS rated_at,
    CASE WHEN position > ratings - floor(ratings * 0.2) THEN 'holdout' ELSE 'train' END AS split
FROM numbered;
