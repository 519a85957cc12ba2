"""The store on disk: what is written, and direct reads of it."""

from embedstore.store.collection import Collection, key_of
from embedstore.store.reader import EmbeddingInfo, PackedEmbeddings, RecipeReader
from embedstore.store.recipe import Recipe
from embedstore.store.store import Store, create_store, open_store

__all__ = [
    "Collection",
    "EmbeddingInfo",
    "PackedEmbeddings",
    "Recipe",
    "RecipeReader",
    "Store",
    "create_store",
    "key_of",
    "open_store",
]
