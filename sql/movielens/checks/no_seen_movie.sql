-- Nobody is recommended a movie that he has rated.
SELECT t.user_id, t.movie_id, t.title
FROM recs.top_items AS t
JOIN features.ratings AS r ON t.user_id = r.user_id AND t.movie_id = r.movie_id
WHERE r.split = 'train';
