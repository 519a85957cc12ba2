"""Files that appear whole or not at all: written aside, synced, then moved into place."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step; a reader sees the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.draft")
    try:
        with aside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names just made or moved in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_folder(draft: Path, final: Path) -> bool:
    """Move a finished draft to its final name in one step, unless that name is taken.

    Returns
    -------
    False where another folder already stands there; the draft is then removed.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for folder, _, _ in os.walk(draft):
        sync_folder(Path(folder))
    try:
        draft.rename(final)  # fails on a folder that is not empty: exclusive
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(draft)
        return False
    sync_folder(final.parent)
    return True
