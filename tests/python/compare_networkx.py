"""Compares ranks with NetworkX, for graphs given as name=edges table."""

import sys

import networkx
from common import finish, table

warehouse = sys.argv[1]
for name in ["movies", "dangling", "loops", "components", "single", "parallel", "personal"]:
    edges = table(warehouse, "features.movie_links" if name == "movies" else f"graphs.{name}")
    graph = networkx.MultiDiGraph()
    graph.add_weighted_edges_from((row["source"], row["target"], row["weight"]) for row in edges)
    teleport = None
    if name == "personal":
        teleport = {row["node"]: row["weight"] for row in table(warehouse, "graphs.teleport")}
    expected = networkx.pagerank(graph, alpha=0.85, personalization=teleport, tol=1e-15, max_iter=1000)
    actual = {row["node"]: row["rank"] for row in table(warehouse, f"ranked.{name}.ranks")}
    assert actual.keys() == expected.keys(), name
    distance = sum(abs(actual[node] - expected[node]) for node in expected)
    print(f"{name}: {len(expected)} nodes, L1 distance {distance:.1e}, sum - 1 {sum(actual.values()) - 1:.1e}")
    assert distance <= 1e-8
    assert abs(sum(actual.values()) - 1) <= 1e-12

finish()
