"""Embeddings in the files that other programs read and write: a store out, a file in."""

from embedstore.store.interchange.export import ExportConfig, ExportReport, export_file
from embedstore.store.interchange.hdf5 import sequence_hash
from embedstore.store.interchange.incoming import ImportConfig, ImportReport, import_file

__all__ = [
    "ExportConfig",
    "ExportReport",
    "ImportConfig",
    "ImportReport",
    "export_file",
    "import_file",
    "sequence_hash",
]
