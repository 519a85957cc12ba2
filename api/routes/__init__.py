"""One file a subject; `api.app` puts them together."""
