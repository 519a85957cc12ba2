"""Several stores into one: segments are copied as they are, and checked on the way.

A segment never changes, so copying its files and publishing them is all. Collections are compared
before anything is copied.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from google_crc32c import extend as extend_crc32c

from embedstore.errors import BadInput, CollectionConflict, DamagedSegment
from embedstore.store.collection_changes import unite
from embedstore.store.drafts import DOCUMENT, new_draft, publish_segment
from embedstore.store.files import make_folder_in, writing_to
from embedstore.store.objects import Place, unless_damage
from embedstore.store.published import Segment
from embedstore.store.segment import SEGMENT_FORMAT
from embedstore.store.store import Store, create_store

BLOCK = 4 << 20


@dataclass
class MergeReport:
    """What was copied."""

    collections: list[str] = field(default_factory=list)
    """Names that are new in the target, or that got rows, columns or values."""
    segments: int = 0
    kept: int = 0
    """Segments that the target had."""
    bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    """Why a segment was left out, one line each; everything else was copied."""

    @property
    def whole(self) -> bool:
        """True where nothing was left out."""
        return not self.damaged

    def as_json(self) -> dict[str, Any]:
        """Plain values by field name."""
        return {"whole": self.whole, **asdict(self)}


def merge(sources: Sequence[Store], into: str | Place, *, prefix: bool = False) -> MergeReport:
    """Copy collections, recipes and segments of stores into another.

    Parameters
    ----------
    into : an old or a new store; a segment that it has stays as it is
    prefix : name each collection SOURCE-NAME, after the folder of its store without the ending

    Raises
    ------
    CollectionConflict
        Collections of one name differ in a record or label; nothing was copied.
    BadInput
        A source is the target, or with `prefix` its folder cannot name a collection.
    DamagedSegment
        A recipe's document or a collection cannot be read; nothing was copied.
    WriteFailed
    """
    target = create_store(into)
    for source in sources:
        if source.folder.resolve() == target.folder.resolve():
            raise BadInput(
                f"{str(target.folder)!r} is a source and the target.", "Name a new folder last."
            )
    tables = _collections(sources, target, prefix=prefix)
    recipes = [
        (source, source.find_recipe(name)) for source in sources for name in source.recipes()
    ]
    report = MergeReport()
    for source, recipe in recipes:
        target.write_recipe(recipe)
        there = target.recipe_folder(recipe.name) / "segments"
        for folder in source.segment_folders(recipe.name):
            if (there / folder.name / "segment.json").exists():
                report.kept += 1
                continue
            segment = Segment(folder, recipe)
            try:
                report.bytes += copy_segment(segment, target.recipe_folder(recipe.name))
            except DamagedSegment as error:
                report.damaged.append(f"{source.folder}: {error.problem}")
                continue
            report.segments += 1
    for name, table in tables.items():
        if target.write_collection(name, table):
            report.collections.append(name)
    return report


def copy_segment(segment: Segment, recipe_folder: Place) -> int:
    """Copy a segment to another folder of its recipe, comparing it with its checksums.

    Returns
    -------
    Bytes copied.

    Raises
    ------
    DamagedSegment
        The source is not what its document says; nothing was published.
    WriteFailed
    """
    copied = 0
    document = segment.document
    with new_draft(recipe_folder) as draft:
        for name, entry in document["files"].items():
            if _copy(segment, name, draft) != entry["crc32c"]:
                raise segment.damaged(f"{name} does not match its checksum")
            copied += entry["bytes"]
        if segment.data == segment.folder:
            _copy(segment, DOCUMENT, draft)
        else:  # the copy lies with its document
            whole = {key: value for key, value in document.items() if key != "data"}
            whole["format"] = SEGMENT_FORMAT
            with writing_to(draft):
                (draft / DOCUMENT).write_bytes(json.dumps(whole, indent=1).encode())
        files = {name: int(entry["bytes"]) for name, entry in document["files"].items()}
        with writing_to(draft):
            files[DOCUMENT] = (draft / DOCUMENT).stat().st_size
        publish_segment(draft, recipe_folder, segment.name, files)
    return copied


def _copy(segment: Segment, name: str, draft: Path) -> str:
    """Copy one file; gives the crc32c of what was copied, 8 hex digits."""
    checksum = 0
    with writing_to(draft):
        to = make_folder_in(draft, name)
    try:
        source = (segment.data / name).open("rb")
    except OSError as error:
        unless_damage(error, segment.data / name)
        raise segment.damaged(f"{name} cannot be read ({error.strerror})") from error
    with source, writing_to(to), to.open("wb") as file:
        while True:
            try:
                block = source.read(BLOCK)
            except OSError as error:
                unless_damage(error, segment.data / name)
                raise segment.damaged(f"{name} cannot be read ({error.strerror})") from error
            if not block:
                return f"{checksum:08x}"
            checksum = extend_crc32c(checksum, block)
            file.write(block)


def _collections(sources: Sequence[Store], target: Store, *, prefix: bool) -> dict[str, pa.Table]:
    """Every collection under the name it will have; of one name, what each source has to add."""
    tables = {name: target.collection(name).table for name in target.collections()}
    owners = dict.fromkeys(tables, target.folder)
    for source in sources:
        for name in source.collections():
            table = source.collection(name).table
            new = f"{source.folder.resolve().stem}-{name}" if prefix else name
            if new in tables and not tables[new].equals(table):
                table, change = unite(tables[new], table)
                if change is not None:
                    raise CollectionConflict(
                        f"{str(owners[new])!r} and {str(source.folder)!r} have different "
                        f"collections {new!r} ({change}).",
                        "Say --prefix to name collections after their stores; nothing was copied.",
                    )
            target.check_collection(new, table)
            tables[new] = table
            owners.setdefault(new, source.folder)
    return tables
