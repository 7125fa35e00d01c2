"""The ten best unseen items for every user of 18 million interactions: Nightshift through a cluster of one executor with
two cores, beside implicit and Spark with two threads. Nightshift and implicit have the same factors, and must find the
same items. Spark has factors of its own, as many, and recommends what users have seen as well."""

import os
import sys


os.environ["OPENBLAS_NUM_THREADS"] = "1"

import implicit.cpu.als
import numpy
import pyarrow.parquet
import scipy.sparse
from common import cluster, interactions, seconds, spark_session, table

FACTORS = int(sys.argv[2]) if len(sys.argv) > 2 else 64
SIZE = sys.argv[3] if len(sys.argv) > 3 else "20M"
K = 10
THREADS = 2


def train(cursor):
    cursor.execute(
        "CREATE MODEL bench.als OPTIONS (model_type = 'matrix_factorization', feedback_type = 'implicit',"
        f" user_col = 'user_id', item_col = 'item_id', rating_col = 'weight', num_factors = {FACTORS},"
        " wals_alpha = 10, max_iterations = 3, early_stop = false)"
        " AS SELECT user_id, item_id, weight FROM default.given"
    )


def factors_of(cursor, side):
    cursor.execute(f"SELECT {side}_id, factors FROM bench.als.{side}_factors ORDER BY {side}_id")
    rows = cursor.fetch_arrow_table()
    values = rows["factors"].combine_chunks().flatten().to_numpy().reshape(-1, FACTORS)
    return rows[f"{side}_id"].to_numpy(), values


def of_implicit(seen, users, items):
    model = implicit.cpu.als.AlternatingLeastSquares(factors=FACTORS, num_threads=THREADS)
    model.user_factors, model.item_factors = users, items
    everybody = numpy.arange(len(users))
    return seconds(lambda: model.recommend(everybody, seen, N=K, filter_already_liked_items=True))


def of_spark(file):
    from pyspark.ml.recommendation import ALS

    spark = spark_session()
    rows = spark.read.parquet(str(file)).select("user_id", "item_id", "weight")
    options = {"userCol": "user_id", "itemCol": "item_id", "ratingCol": "weight"}
    model = ALS(rank=FACTORS, maxIter=1, implicitPrefs=True, numUserBlocks=2, numItemBlocks=2, **options).fit(rows)
    model.userFactors.cache().count()
    model.itemFactors.cache().count()
    taken, _ = seconds(lambda: model.recommendForAllUsers(K).write.format("noop").mode("overwrite").save())
    spark.stop()
    return taken


def main():
    file = interactions(SIZE)
    with cluster(executors=[THREADS], locations=[file.parent]) as running, running.connect() as connection:
        cursor = connection.cursor()
        cursor.execute(f"CREATE EXTERNAL TABLE default.given STORED AS PARQUET LOCATION '{file}'")
        train(cursor)
        user_ids, users = factors_of(cursor, "user")
        item_ids, items = factors_of(cursor, "item")
        rows = pyarrow.parquet.read_table(file)
        places = [numpy.searchsorted(ids, rows[name].to_numpy()) for ids, name in [(user_ids, "user_id"), (item_ids, "item_id")]]
        seen = scipy.sparse.csr_matrix((numpy.ones(len(rows), numpy.float32), places))
        ours, theirs = [], []
        for _ in range(3):
            statement = f"CREATE OR REPLACE TABLE bench.top AS SELECT * FROM ml_recommend('bench.als', {K})"
            ours.append(seconds(lambda: cursor.execute(statement))[0])
            taken, (their_items, their_scores) = of_implicit(seen, users, items)
            theirs.append(taken)
        cursor.execute("SELECT user_id, rank, item_id, score FROM bench.top ORDER BY user_id, rank")
        top = cursor.fetch_arrow_table()
    assert len(top) == K * len(users)
    our_items = numpy.searchsorted(item_ids, top["item_id"].to_numpy()).reshape(-1, K)
    our_scores = top["score"].to_numpy().reshape(-1, K)
    # Scores that differ by roundings only may change places.
    close = numpy.abs(our_scores - their_scores) <= 1e-5 * numpy.abs(their_scores).max()
    assert close.all(), numpy.abs(our_scores - their_scores).max()
    same = (our_items == their_items).mean()
    products = 2 * len(users) * len(items) * FACTORS
    print(f"{len(users)} users, {len(items)} items, {FACTORS} factors; {same:.4%} of the places have the same item")
    ours, theirs = min(ours), min(theirs)
    figures = [["nightshift, to the published table", ours, 1.0, products / ours / 1e9]]
    figures.append(["implicit, to an array", theirs, theirs / ours, products / theirs / 1e9])
    spark = of_spark(file)
    figures.append(["spark, to nowhere", spark, spark / ours, products / spark / 1e9])
    table([f"top {K} for all users", "seconds", "of ours", "GFLOP/s"], figures)


main()
