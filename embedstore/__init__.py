"""An embedding feature store for biological language models.

Example: `open_store("runs/mrna.store").recipe("esm2-8m").get("P69905")`
"""

from embedstore.errors import StoreError
from embedstore.store import (
    Collection,
    EmbeddingInfo,
    PackedEmbeddings,
    Recipe,
    RecipeReader,
    Store,
    create_store,
    key_of,
    open_store,
)

__version__ = "0.1.0"

__all__ = [
    "Collection",
    "EmbeddingInfo",
    "PackedEmbeddings",
    "Recipe",
    "RecipeReader",
    "Store",
    "StoreError",
    "__version__",
    "create_store",
    "key_of",
    "open_store",
]
