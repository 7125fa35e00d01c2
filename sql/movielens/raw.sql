-- MovieLens 100K, read in place.

CREATE EXTERNAL TABLE raw.ratings (user_id BIGINT, movie_id BIGINT, rating DOUBLE, rated_at BIGINT)
STORED AS CSV LOCATION 'data/ratings.tsv'
OPTIONS ('format.has_header' 'true', 'format.delimiter' E'\t');

CREATE EXTERNAL TABLE raw.movies (movie_id BIGINT, title VARCHAR, year VARCHAR, genres VARCHAR)
STORED AS CSV LOCATION 'data/movies.tsv'
OPTIONS ('format.has_header' 'true', 'format.delimiter' E'\t');
