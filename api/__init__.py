"""Stored embeddings and predictions over HTTP."""
