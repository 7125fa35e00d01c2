-- A graph of movies: how many users who liked one also liked the other, if there are at least three.

CREATE OR REPLACE TABLE features.movie_links AS
WITH liked AS (
    SELECT user_id, movie_id FROM features.ratings WHERE split = 'train' AND rating >= 4
)
SELECT a.movie_id AS source, b.movie_id AS target, count(*) AS weight
FROM liked AS a
JOIN liked AS b ON a.user_id = b.user_id AND a.movie_id <> b.movie_id
GROUP BY a.movie_id, b.movie_id
HAVING count(*) >= 3;
