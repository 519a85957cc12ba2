"""Ways to damage one file of a store: a tree of files in, a seeded list of damages out.

A damage is plain values, so that one line of JSON is enough to repeat it.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

from embedstore.documents import seal

FLIP, CUT, GROW, EDIT = "flip", "cut", "grow", "edit"
DELETE, FOLDER, FIFO, LINK, DEVICE, LOOP = "delete", "folder", "fifo", "link", "device", "loop"
OTHER, SWAP, SPARSE = "other", "swap", "sparse"
ON_DISK = (FLIP, CUT, GROW, EDIT, DELETE, FOLDER, FIFO, LINK, DEVICE, LOOP, OTHER, SWAP, SPARSE)
IN_BUCKET = (FLIP, CUT, GROW, EDIT, DELETE, FOLDER, OTHER, SWAP)
SPARSE_BYTES = 1 << 40

HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 1.5, 1e30, 10**6, 2**31, 2**63, 2**70, float("nan"), float("inf")),
    *("", "evil", "4", "a\nb", "\ud800", "../../../../../evilrc", "/etc/passwd", "object"),
    *([], {}, [[]], {"x": 1}),
)
"""Values that no field of ours expects; a field takes some of them in vain."""
DEEP = "[" * 100_000


@dataclass(frozen=True)
class Damage:
    """What is done to one file or folder."""

    kind: str
    path: str
    """Below the tree, with slashes: `store/...` or `run/...`."""
    at: int = 0
    """Of a flip: the byte; of a cut: the bytes left; of an edit: its number."""
    bit: int = 0
    other: str = ""
    """The file or folder whose place or content it takes."""

    def as_json(self) -> dict[str, Any]:
        """The fields that say something."""
        return {name: value for name, value in asdict(self).items() if value or name == "at"}

    @property
    def removes(self) -> bool:
        """Whether nothing is left from which a reader could tell that something stood here."""
        return self.kind == DELETE


def kind_of(path: str) -> str:
    """A word for what a file is, by its path."""
    parts = path.split("/")
    if parts[0] == "run":
        return f"run/{'probe' if 'probes' in parts[:-1] else parts[-1].rpartition('.')[2]}"
    if "segments" in parts or "data" in parts:
        name = parts[-1]
        if name in ("segment.json", "zarr.json"):
            return name if name == "segment.json" else "segment's zarr.json"
        return "segment's array" if len(parts) > 5 else "segment"
    for folder in ("collections", "index", "neighbors", "failures"):
        if folder in parts[:-1] or parts[-1] == folder:
            return folder
    return parts[-1] if parts[-1].endswith(".json") else "folder"


def changed(damage: Damage, files: Mapping[str, bytes]) -> bytes | None:
    """The content that a damage gives to a file; None where it changes nothing or is no content."""
    content = files[damage.path]
    match damage.kind:
        case "flip":
            flipped = bytearray(content)
            flipped[damage.at] ^= 1 << damage.bit
            return bytes(flipped)
        case "cut":
            return content[: damage.at]
        case "grow":
            return content + content[-1:] * max(1, damage.at)
        case "other":
            other = files[damage.other]
            return None if other == content else other
        case "edit":
            return edited(content, damage.at)
    return None


def damages(
    files: Mapping[str, bytes], kinds: tuple[str, ...], share: float, seed: int
) -> list[Damage]:
    """Damages of every file, in an order in which each kind of file has its turn.

    Parameters
    ----------
    share : part of the bytes that are flipped and of the lengths that are cut; at least one each
    """
    rng = random.Random(seed)
    by_kind: dict[str, list[Damage]] = {}
    for path in sorted(files):
        found = [each for each in _of_file(path, files, share, rng) if each.kind in kinds]
        by_kind.setdefault(kind_of(path), []).extend(found)
    for each in _of_folders(files):
        if each.kind in kinds:
            by_kind.setdefault("folders", []).append(each)
    for found in by_kind.values():
        rng.shuffle(found)
    return list(_taking_turns(list(by_kind.values())))


def _of_file(
    path: str, files: Mapping[str, bytes], share: float, rng: random.Random
) -> Iterator[Damage]:
    size = len(files[path])
    for at in rng.sample(range(size), min(size, max(1, round(share * size)))):
        yield Damage(FLIP, path, at, rng.randrange(8))
    lengths = {0, max(0, size - 1), *rng.sample(range(size), min(size, round(share * size)))}
    for at in sorted(lengths):
        yield Damage(CUT, path, at)
    for at in (1, 4096):
        yield Damage(GROW, path, at)
    for kind in (DELETE, FOLDER, FIFO, LINK, DEVICE, LOOP, SPARSE):
        yield Damage(kind, path)
    for other in _namesakes(path, files, rng):
        yield Damage(OTHER, path, other=other)
    if path.endswith(".json"):
        count = edits(files[path])
        for at in rng.sample(range(count), min(count, max(2, round(share * count)))):
            yield Damage(EDIT, path, at)


def _namesakes(path: str, files: Mapping[str, bytes], rng: random.Random) -> list[str]:
    """Up to two files of the same name or, among collections, of the same ending."""
    name = path.rpartition("/")[2]
    ending = "." + name.rpartition(".")[2]
    near = path.split("/")[1] in ("collections",)
    found = [
        each
        for each in files
        if each != path
        and files[each] != files[path]
        and (
            each.rpartition("/")[2] == name
            or (near and each.split("/")[1] == "collections" and each.endswith(ending))
        )
    ]
    return rng.sample(found, min(2, len(found)))


def _of_folders(files: Mapping[str, bytes]) -> Iterator[Damage]:
    folders = sorted({"/".join(path.split("/")[:n]) for path in files for n in _depths(path)})
    for folder in folders:
        for kind in (DELETE, LINK, FIFO):
            yield Damage(kind, folder)
        parent, _, name = folder.rpartition("/")
        digests = re.fullmatch(r"[0-9a-f]{32}", name)
        for other in folders:
            other_parent, _, other_name = other.rpartition("/")
            alike = bool(re.fullmatch(r"[0-9a-f]{32}", other_name)) == bool(digests)
            if other > folder and alike and (other_parent == parent or digests):
                yield Damage(SWAP, folder, other=other)


def _depths(path: str) -> range:
    return range(2, len(path.split("/")))


def _taking_turns(queues: list[list[Damage]]) -> Iterator[Damage]:
    while queues:
        for queue in queues:
            yield queue.pop()
        queues = [queue for queue in queues if queue]


def edits(content: bytes) -> int:
    """How many edits a JSON document offers."""
    try:
        document = json.loads(content)
    except ValueError:
        return 0
    return len(list(_places(document))) * (len(HOSTILE) + 2) + 1


def edited(content: bytes, number: int) -> bytes:
    """A JSON document with one value changed, or gone, or one name changed; sealed where it was."""
    document = json.loads(content)
    places = list(_places(document))
    at, way = divmod(number, len(HOSTILE) + 2)
    if at >= len(places):
        return DEEP.encode()
    *steps, last = places[at]
    changed = deepcopy(document)
    inner = changed
    for step in steps:
        inner = inner[step]
    if way < len(HOSTILE):
        inner[last] = HOSTILE[way]
    elif way == len(HOSTILE):
        del inner[last]
    elif isinstance(last, str):
        inner["../../../../../evilrc"] = inner.pop(last)
    else:
        inner.insert(last, inner[last])
    if isinstance(changed, dict) and "checksum" in document and places[at] != ("checksum",):
        with contextlib.suppress(ValueError):  # not finite: the old checksum stays
            changed = seal(changed)
    return json.dumps(changed, indent=1).encode()


def _places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand in a document: names and numbers from the outside in."""
    entries: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value[:3]))
    for name, inner in entries:
        yield (*before, name)
        yield from _places(inner, (*before, name))
