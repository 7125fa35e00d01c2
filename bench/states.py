"""What compression would make of the states that tasks leave for each other: factors of a matrix factorization and ranks of
PageRank, as they are and with the bytes of numbers side by side (as Parquet's BYTE_STREAM_SPLIT has them). A state that is
compressed is written and read sooner if the store is slower than the last column says: megabytes per second, for each core
that compresses or decompresses. The time in which bytes are put side by side is not counted, so it is less in truth."""

import sys

import numpy
import pyarrow
from common import FACTORIZATION, PAGERANK, create_model, interactions, rmat, seconds, table, training

SIZE = sys.argv[2] if len(sys.argv) > 2 else "2M"
SCALE = int(sys.argv[3]) if len(sys.argv) > 3 else 18
CODECS = [("LZ4", "lz4", None), ("Zstandard, level 1", "zstd", 1)]


def states():
    """Names and arrays of what a training has in the end, which is what its last state holds."""
    statement = create_model("bench.m", FACTORIZATION, num_factors=64, max_iterations=4, solver="exact")
    with training(interactions(SIZE), 2, statement) as (cursor, *_):
        for side in ["user", "item"]:
            cursor.execute(f"SELECT factors FROM bench.m.{side}_factors ORDER BY {side}_id")
            factors = cursor.fetch_arrow_table()["factors"].combine_chunks()
            yield f"{side} factors, {SIZE}", factors.flatten().to_numpy().astype(numpy.float32)
    statement = create_model("bench.m", PAGERANK, tolerance=1e-15, max_iterations=20)
    with training(rmat(SCALE), 2, statement) as (cursor, *_):
        cursor.execute("SELECT rank FROM bench.m.ranks ORDER BY node")
        yield f"ranks, R-MAT {SCALE}", cursor.fetch_arrow_table()["rank"].to_numpy()


def side_by_side(numbers):
    return numpy.ascontiguousarray(numbers.view(numpy.uint8).reshape(len(numbers), -1).T)


rows = []
for name, numbers in states():
    for form, array in [("as they are", numbers), ("bytes side by side", side_by_side(numbers))]:
        data = array.tobytes()
        for title, codec, level in CODECS:
            codec = pyarrow.Codec(codec, compression_level=level)
            write, packed = min((seconds(lambda: codec.compress(data)) for _ in range(3)), key=lambda one: one[0])
            read = min(seconds(lambda: codec.decompress(packed, len(data)))[0] for _ in range(3))
            share = packed.size / len(data)
            speeds = [len(data) / 1e6 / taken for taken in (write, read)]
            pays = [max(0.0, 1 - share) * speed for speed in speeds]
            rows.append([name, form, title, share, *speeds, min(pays)])
table(["state", "form", "codec", "share", "MB/s written", "MB/s read", "pays below, MB/s"], rows)
