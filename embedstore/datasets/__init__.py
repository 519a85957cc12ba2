"""Public data sets: a registry of sources, licences and checksums, and how to fetch and clean them.

No file of a data set comes with this package.
"""

from embedstore.datasets.entry import DataSet
from embedstore.datasets.fetch import FetchConfig, Fetched, commands, fetch, fetch_raw
from embedstore.datasets.registry import DATA_SETS, find_data_set

__all__ = [
    "DATA_SETS",
    "DataSet",
    "FetchConfig",
    "Fetched",
    "commands",
    "fetch",
    "fetch_raw",
    "find_data_set",
]
