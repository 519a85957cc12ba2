"""`store.json`, which makes a folder a store: bytes in, its format number out."""

from __future__ import annotations

import json

from embedstore.documents import Crc32c, Document, FormatNumber, parse_sealed, seal

MARKER = "store.json"
STORE_FORMAT = 2
"""Of what is written; from 2 on the document has a checksum of itself. 1 is still read."""
MOST_MARKER_BYTES = 64 << 10
MEND_MARKER = "Run `embedstore repair` on the store, which writes the file anew."


class StoreDocument(Document):
    """All that `store.json` says."""

    format: FormatNumber
    checksum: Crc32c | None = None


def parse_marker(content: bytes) -> int:
    """The format number of a store.

    Raises
    ------
    NewerDocument, BadDocument
    """
    document = parse_sealed(
        StoreDocument,
        content,
        newest=STORE_FORMAT,
        sealed_from=2,
        most=MOST_MARKER_BYTES,
    )
    return document.format


def marker_content() -> bytes:
    """The bytes of a `store.json` of the newest format."""
    return json.dumps(seal({"format": STORE_FORMAT})).encode()
