-- Everybody gets the ranks 1 to 10, each once.
SELECT u.user_id, count(t.rank) AS ranks, min(t.rank) AS first, max(t.rank) AS last
FROM (SELECT DISTINCT user_id FROM features.ratings) AS u
LEFT JOIN recs.top_items AS t ON u.user_id = t.user_id
GROUP BY u.user_id
HAVING count(t.rank) <> 10 OR count(DISTINCT t.rank) <> 10 OR min(t.rank) <> 1 OR max(t.rank) <> 10;
