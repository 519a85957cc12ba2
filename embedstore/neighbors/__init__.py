"""Nearest neighbours among the averaged embeddings of a recipe.

Example: `open_neighbors(open_store("runs/mrna.store"), "esm2-8m").search(means, 10)`
"""

from embedstore.neighbors.index import METRICS, Metric, Neighbor, NeighborIndex
from embedstore.neighbors.open import open_neighbors
from embedstore.neighbors.records import nearest_records

__all__ = [
    "METRICS",
    "Metric",
    "Neighbor",
    "NeighborIndex",
    "nearest_records",
    "open_neighbors",
]
