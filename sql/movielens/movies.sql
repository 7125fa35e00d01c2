-- The catalogue.

CREATE OR REPLACE TABLE features.movies AS
SELECT
    movie_id,
    title,
    TRY_CAST(year AS INT) AS year,
    string_to_array(genres, ' ') AS genres
FROM raw.movies;
