-- Which movies matter, whoever asks.

CREATE OR REPLACE MODEL graph.movie_rank
OPTIONS (
    model_type = 'pagerank', source_col = 'source', target_col = 'target', weight_col = 'weight',
    damping = 0.85, tolerance = 1e-10
)
AS SELECT source, target, weight FROM features.movie_links;
