-- Ten movies for every user that the user has not rated.

CREATE OR REPLACE TABLE recs.top_items AS
SELECT r.user_id, r.rank, r.movie_id, m.title, r.score
FROM ml_recommend('recs.als', 10) AS r
JOIN features.movies AS m ON r.movie_id = m.movie_id;
