"""Where a segment grows, and the one step that shows it: a recipe's folder in, a segment out.

On disk a draft lies under `drafts/` and is moved to `segments/SEG/`. Nothing can be moved in a
bucket: there a draft grows in a temporary folder of this machine, its files are sent to
`data/ATTEMPT/`, a name no other writer has, and `segments/SEG/segment.json`, which names the
attempt, is created last. That one request is refused where the segment was published before.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from embedstore.errors import StoreError, WriteFailed
from embedstore.regular_files import check_within
from embedstore.store.files import (
    DRAFT_SUFFIX,
    check_draft,
    move_away,
    publish_folder,
    writing_to,
)
from embedstore.store.objects import ObjectPath, Place, leads_out, matching

log = logging.getLogger(__name__)

SENT_AT_ONCE = 8
ASKED_AT_ONCE = 16
CREATE_ATTEMPTS = 3
DOOMED = "doomed"
"""Name of the mark that `gc` puts into an attempt before it looks for the last time whether it is
published; who publishes looks for the mark afterwards. So one of the two always sees the other."""
DOCUMENT = "segment.json"
DATA_FORMAT = 2
"""Format of a segment whose document names the folder of its data."""


def data_folder(recipe_folder: Place, attempt: str) -> Place:
    """Where one writer's files of a segment lie in a bucket."""
    return recipe_folder / "data" / attempt


def make_draft(recipe_folder: Place) -> Path:
    """An empty folder on this machine.

    Raises
    ------
    WriteFailed
    """
    if isinstance(recipe_folder, ObjectPath):
        place = Path(tempfile.gettempdir())
        with writing_to(place):
            return Path(tempfile.mkdtemp(prefix="embedstore-", dir=place))
    folder = recipe_folder / "drafts" / uuid.uuid4().hex
    with writing_to(folder):
        check_within(folder.parent, recipe_folder.parent.parent)
        folder.mkdir(parents=True, exist_ok=True)  # nobody else has its name
    return folder


@contextmanager
def new_draft(recipe_folder: Place) -> Iterator[Path]:
    """A folder for a segment to be; what was not published when the block ends is removed."""
    folder = make_draft(recipe_folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # published ones have moved away


def publish_segment(
    draft: Path, recipe_folder: Place, name: str, files: Mapping[str, int | None] | None = None
) -> bool:
    """Show a finished draft under its name; False where that segment was published before.

    Parameters
    ----------
    files : bytes of every file that was written to the draft, its document too; None: as the
        document has them

    Raises
    ------
    WriteFailed
        Also where the draft does not hold just these files.
    """
    with writing_to(draft):
        files = files or _files_in(draft)
    if isinstance(recipe_folder, ObjectPath):
        check_draft(draft, files)
        return _send(draft, recipe_folder, name)
    final = recipe_folder / "segments" / name
    with writing_to(final):
        check_within(final.parent, recipe_folder.parent.parent)
    if final.is_dir() and not (final / DOCUMENT).exists():
        with writing_to(final):  # a broken copy, never published
            move_away(final, draft.with_name(uuid.uuid4().hex))
    return publish_folder(draft, final, files)


def _files_in(draft: Path) -> dict[str, int | None]:
    content = (draft / DOCUMENT).read_bytes()
    told = json.loads(content)["files"]
    return {name: entry["bytes"] for name, entry in told.items()} | {DOCUMENT: len(content)}


def _send(draft: Path, recipe_folder: ObjectPath, name: str) -> bool:
    final = recipe_folder / "segments" / name / DOCUMENT
    if final.is_file():
        return False
    document = json.loads((draft / DOCUMENT).read_bytes())
    attempt = uuid.uuid4().hex
    folder = recipe_folder / "data" / attempt
    try:
        with ThreadPoolExecutor(SENT_AT_ONCE) as pool:
            sent = [pool.submit((folder / file).write, draft / file) for file in document["files"]]
            for each in sent:
                each.result()
        _check_sent(folder, document["files"])
    except StoreError:
        _drop(folder, list(document["files"]))
        raise
    document |= {"format": DATA_FORMAT, "data": attempt}
    # from here on our document may stand, whatever we are told: data are removed only where
    # another one was read
    if not _create_document(final, json.dumps(document, indent=1).encode()):
        _drop(folder, list(document["files"]))
        return False
    try:
        _check_sent(folder, document["files"])
    except WriteFailed:
        final.unlink()
        raise
    return True


def _check_sent(folder: ObjectPath, files: dict[str, dict[str, int]]) -> None:
    """Raise where something is missing, or doomed: a writer that slept may have met `gc`."""
    there = {path.relative_to(folder).as_posix(): entry["size"] for path, entry in folder.below()}
    if there != {name: entry["bytes"] for name, entry in files.items()}:
        raise WriteFailed(
            f"What was sent to {folder} is not there as it was sent.", "Run the same command again."
        )


def _create_document(path: ObjectPath, content: bytes) -> bool:
    """Create a segment's document; False where another one stands there.

    Raises
    ------
    WriteFailed, Unreachable
        It may have been created or not.
    """
    for _ in range(CREATE_ATTEMPTS):
        if path.create(content):
            return True
        try:
            # an answer that got lost is asked for again, and then it is our own that is there
            return path.read_bytes() == content
        except FileNotFoundError:  # set aside meanwhile
            continue
    raise WriteFailed(
        f"{path} is refused, as if it were there, and is not.",
        "Run the same command again; look at who else writes to the bucket.",
    )


def _drop(folder: ObjectPath, files: list[str]) -> None:
    """Remove what was sent in vain; what cannot be is left to `gc`."""
    for file in files:
        try:
            (folder / file).unlink()
        except StoreError as error:
            log.info("%s is left behind: %s", folder / file, error)
            return


def find_unpublished(recipe_folder: Place) -> list[Place]:
    """What no reader of a recipe looks at: segments being written, or left by a killed writer.

    In a bucket, attempts that no document names, neither of a segment nor of one in quarantine.

    Raises
    ------
    Unreachable
    """
    if not isinstance(recipe_folder, ObjectPath):
        if leads_out(recipe_folder, recipe_folder.parent.parent):
            return []  # it is for the store that it leads to
        drafts = matching(recipe_folder, "drafts/*")
        return [*drafts, *sorted(recipe_folder.rglob(f".*{DRAFT_SUFFIX}"))]
    attempts = list((recipe_folder / "data").iterdir())  # before the documents: none is missed
    folders = [
        each for name in ("segments", "quarantine") for each in (recipe_folder / name).iterdir()
    ]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        named = set(pool.map(lambda each: attempt_of(each / DOCUMENT), folders))
    return [attempt for attempt in attempts if attempt.name not in named]


def doom(attempts: list[ObjectPath]) -> list[ObjectPath]:
    """Mark attempts of one recipe as about to be removed; gives those nobody published meanwhile.

    Raises
    ------
    WriteFailed, Unreachable
    """
    if not attempts:
        return []
    for each in attempts:
        (each / DOOMED).write(b"")
    unpublished = set(find_unpublished(attempts[0].parent.parent))
    for each in attempts:
        if each not in unpublished:
            (each / DOOMED).unlink()
    return [each for each in attempts if each in unpublished]


def attempt_of(document: ObjectPath) -> str | None:
    """The attempt that a segment's document names; None where there is none to be read."""
    try:
        attempt: str | None = json.loads(document.read_bytes()).get("data")
    except (FileNotFoundError, ValueError, AttributeError):
        return None
    return attempt


def set_aside(segment: ObjectPath, aside: ObjectPath) -> None:
    """Take a segment in a bucket out of sight: its document moves, its data stay where they are.

    Data beside the document, of a segment that came from a disk, move with it.

    Raises
    ------
    WriteFailed
    """
    document = segment / DOCUMENT
    try:
        content = document.read_bytes()
    except FileNotFoundError:
        content = b"{}"
    others = [path for path, _ in segment.below() if path != document]
    for path in others:
        path.copy_to(aside / path.relative_to(segment).as_posix())
    (aside / DOCUMENT).write(content)
    document.unlink()  # before the data: a document never lacks them
    for path in others:
        path.unlink()


def remove_objects(folder: ObjectPath) -> None:
    """Remove an object, an attempt, or a segment with its data.

    A document goes first, so that none lacks its data.

    Raises
    ------
    WriteFailed
    """
    document = folder / DOCUMENT
    attempt = attempt_of(document)
    document.unlink()
    folder.unlink()
    for place in (folder, data_folder(folder.parent.parent, attempt) if attempt else None):
        for path, _ in list(place.below()) if isinstance(place, ObjectPath) else ():
            path.unlink()
