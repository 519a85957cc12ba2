"""Several stores into one: segments are copied as they are, and checked on the way.

A segment never changes, so copying its files and publishing them is all. Collections are compared
before anything is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from embedstore.errors import BadInput, CollectionConflict, DamagedSegment, NewerFormat
from embedstore.store.collection_changes import unite
from embedstore.store.drafts import new_draft, publish_segment
from embedstore.store.files import make_folder_in, writing_to
from embedstore.store.objects import Place, open_in
from embedstore.store.published import Segment
from embedstore.store.segment_check import check_segment
from embedstore.store.segment_document import DOCUMENT, moved_document
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
            if (there / folder.name / DOCUMENT).is_file():
                report.kept += 1
                continue
            segment = Segment(folder, recipe)
            try:
                report.bytes += copy_segment(segment, target.recipe_folder(recipe.name))
            except (DamagedSegment, NewerFormat) as error:
                report.damaged.append(f"{source.folder}: {error.problem}")
                continue
            report.segments += 1
    for name, table in tables.items():
        if target.write_collection(name, table):
            report.collections.append(name)
    return report


def copy_segment(segment: Segment, recipe_folder: Place) -> int:
    """Copy a segment to another folder of its recipe; what was copied is verified like any other.

    Returns
    -------
    Bytes copied.

    Raises
    ------
    DamagedSegment
        The source is not what its document says, or would not pass `verify`; nothing was published.
    NewerFormat
    WriteFailed
    """
    document = segment.document  # its names are those of a segment, so none leads out of the draft
    with new_draft(recipe_folder) as draft:
        for name in document.files:
            _copy(segment, name, draft)
        content = moved_document(document, None)
        with writing_to(draft):
            (draft / DOCUMENT).write_bytes(content)
        copy = Segment(draft, segment.recipe, name=segment.name, root=draft)
        problems = check_segment(copy).problems
        if problems:
            raise segment.damaged("; ".join(problems))
        files = {**document.sizes(), DOCUMENT: len(content)}
        publish_segment(draft, recipe_folder, segment.name, files)
    return document.bytes


def _copy(segment: Segment, name: str, draft: Path) -> None:
    """Copy one file, and no more of it than the document says it has."""
    with writing_to(draft):
        to = make_folder_in(draft, name)
    left, path = segment.document.files[name].bytes, segment.data / name
    try:
        source = open_in(segment.root, path)
    except OSError as error:
        raise segment.unreadable(name, path, error) from error
    with source, writing_to(to), to.open("wb") as file:
        while left:
            try:
                block = source.read(min(BLOCK, left))
            except OSError as error:
                raise segment.unreadable(name, path, error) from error
            if not block:
                return  # its size tells
            left -= len(block)
            file.write(block)


def _collections(sources: Sequence[Store], target: Store, *, prefix: bool) -> dict[str, pa.Table]:
    """Every collection under the name it will have; of one name, what each source has to add."""
    tables = {name: _table(target, name) for name in target.collections()}
    owners = dict.fromkeys(tables, target.folder)
    for source in sources:
        for name in source.collections():
            table = _table(source, name)
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


def _table(store: Store, name: str) -> pa.Table:
    """The table of a collection; an error of it names the store too."""
    try:
        return store.collection(name).table
    except (DamagedSegment, NewerFormat) as error:
        raise type(error)(f"{str(store.folder)!r}: {error.problem}", error.fix) from error
