-- What users like: every rating is evidence of interest, a higher one of more.

CREATE OR REPLACE MODEL recs.als
OPTIONS (
    model_type = 'matrix_factorization', feedback_type = 'implicit',
    user_col = 'user_id', item_col = 'movie_id', rating_col = 'rating',
    num_factors = 64, wals_alpha = 1, l2_reg = 0.02, l2_reg_exponent = 1,
    max_iterations = 15, min_rel_progress = 0.001, seed = 42
)
AS SELECT user_id, movie_id, rating FROM features.ratings WHERE split = 'train';
