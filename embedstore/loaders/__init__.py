"""Stored features for training: recipes and keys in; packed, joined or streamed batches out.

Example: `load_features(open_store("genes.store").recipe("esm2-8m"), keys)`
"""

from embedstore.loaders.aligned import load_aligned
from embedstore.loaders.features import EmbeddingReader, Features, FeatureSet, load_features
from embedstore.loaders.joined import Align, JoinedReader, JoinedRecipe, open_joined, reopen_joined
from embedstore.loaders.memory import Loading, MemoryPlan, open_features, plan_memory
from embedstore.loaders.streamed import StreamedFeatures

__all__ = [
    "Align",
    "EmbeddingReader",
    "FeatureSet",
    "Features",
    "JoinedReader",
    "JoinedRecipe",
    "Loading",
    "MemoryPlan",
    "StreamedFeatures",
    "load_aligned",
    "load_features",
    "open_features",
    "open_joined",
    "plan_memory",
    "reopen_joined",
]
