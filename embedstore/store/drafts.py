"""Where a segment grows, and the one step that shows it: a recipe's folder in, a segment out.

On disk a draft lies under `drafts/` and is moved to `segments/SEG/`. Nothing can be moved in a
bucket: there a draft grows in a temporary folder of this machine, its files are sent to
`data/ATTEMPT/`, a name no other writer has, and `segments/SEG/segment.json`, which names the
attempt, is created last. That one request is refused where the segment was published before.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from embedstore.documents import BadDocument
from embedstore.errors import DamagedSegment, StoreError, WriteFailed
from embedstore.regular_files import check_within
from embedstore.store.files import (
    DRAFT_SUFFIX,
    check_draft,
    move_away,
    publish_folder,
    writing_to,
)
from embedstore.store.objects import (
    ObjectPath,
    Place,
    leads_out,
    matching,
    read_in,
    unless_damage,
)
from embedstore.store.segment_document import (
    DOCUMENT,
    MOST_BYTES,
    SegmentDocument,
    moved_document,
    parse_segment,
)

log = logging.getLogger(__name__)

SENT_AT_ONCE = 8
ASKED_AT_ONCE = 16
CREATE_ATTEMPTS = 3
DOOMED = "doomed"
"""Name of the mark that `gc` puts into an attempt before it looks for the last time whether it is
published; who publishes looks for the mark afterwards. So one of the two always sees the other."""
_ATTEMPT = re.compile(rb"[0-9a-f]{32}")


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
    DamagedSegment
        Its document is none, or that of another segment.
    """
    with writing_to(draft):
        content = read_in(draft, draft / DOCUMENT, most=MOST_BYTES)
    document = _parse_draft(content, name)
    files = files or {**document.sizes(), DOCUMENT: len(content)}
    if isinstance(recipe_folder, ObjectPath):
        check_draft(draft, files)
        return _send(draft, document, recipe_folder)
    final = recipe_folder / "segments" / name
    with writing_to(final):
        check_within(final.parent, recipe_folder.parent.parent)
    if final.is_dir() and not (final / DOCUMENT).exists():
        with writing_to(final):  # a broken copy, never published
            move_away(final, draft.with_name(uuid.uuid4().hex))
    return publish_folder(draft, final, files)


def _parse_draft(content: bytes, name: str) -> SegmentDocument:
    try:
        document = parse_segment(content)
        if document.segment != name:
            raise BadDocument(f"it is of segment {document.segment}")
    except BadDocument as error:
        raise DamagedSegment(
            f"Segment {name}, as it was to be published: {DOCUMENT} is damaged: {error}.",
            "Nothing was published. Run the same command again.",
        ) from error
    return document


def _send(draft: Path, document: SegmentDocument, recipe_folder: ObjectPath) -> bool:
    final = recipe_folder / "segments" / document.segment / DOCUMENT
    if final.is_file():
        return False
    attempt = uuid.uuid4().hex
    folder = recipe_folder / "data" / attempt
    sizes = document.sizes()  # its names are those of a segment, whatever the draft's document says
    try:
        with ThreadPoolExecutor(SENT_AT_ONCE) as pool:
            sent = [pool.submit((folder / file).write, draft / file) for file in sizes]
            for each in sent:
                each.result()
        _check_sent(folder, sizes)
    except StoreError:
        _drop(folder, list(sizes))
        raise
    # from here on our document may stand, whatever we are told: data are removed only where
    # another one was read
    if not _create_document(final, moved_document(document, attempt)):
        _drop(folder, list(sizes))
        return False
    try:
        _check_sent(folder, sizes)
    except WriteFailed:
        final.unlink()
        raise
    return True


def _check_sent(folder: ObjectPath, sizes: dict[str, int]) -> None:
    """Raise where something is missing, or doomed: a writer that slept may have met `gc`."""
    there = {path.relative_to(folder).as_posix(): entry["size"] for path, entry in folder.below()}
    if there != sizes:
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
    A damaged document of a segment may have named any of them: then there is none.

    Raises
    ------
    Unreachable
    """
    if not isinstance(recipe_folder, ObjectPath):
        if leads_out(recipe_folder, recipe_folder.parent.parent):
            return []  # it is for the store that it leads to
        drafts = matching(recipe_folder, "drafts/*")
        try:
            return [*drafts, *sorted(recipe_folder.rglob(f".*{DRAFT_SUFFIX}"))]
        except OSError as error:
            unless_damage(error, recipe_folder)
            return drafts
    attempts = list((recipe_folder / "data").iterdir())  # before the documents: none is missed
    known = {attempt.name for attempt in attempts}
    folders = [
        each for name in ("segments", "quarantine") for each in (recipe_folder / name).iterdir()
    ]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        read = list(pool.map(lambda each: _attempts_in(each / DOCUMENT), folders))
    taken: set[str] = set()
    for folder, (named, whole) in zip(folders, read, strict=True):
        taken |= named
        if not whole and not named & known and folder.parent.name == "segments":
            log.warning("%s is damaged: no attempt is taken for a draft.", folder / DOCUMENT)
            return []
    return [attempt for attempt in attempts if attempt.name not in taken]


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
    named, whole = _attempts_in(document)
    return next(iter(named), None) if whole else None


def _attempts_in(document: ObjectPath) -> tuple[set[str], bool]:
    """The attempt that a document names, and True; of a damaged one all that may be one, and False.

    Raises
    ------
    Unreachable
    """
    try:
        content = document.read_bytes(MOST_BYTES)
    except FileNotFoundError:
        return set(), True
    except OSError as error:  # it is too large
        unless_damage(error, document)
        return set(), False
    try:
        attempt = parse_segment(content).data
    except BadDocument:
        return {name.decode() for name in _ATTEMPT.findall(content)}, False
    return set() if attempt is None else {attempt}, True


def set_aside(segment: ObjectPath, aside: ObjectPath) -> None:
    """Take a segment in a bucket out of sight: its document moves, its data stay where they are.

    Data beside the document, of a segment that came from a disk, move with it.

    Raises
    ------
    WriteFailed
    """
    document = segment / DOCUMENT
    others = [path for path, _ in segment.below() if path != document]
    for path in others:
        path.copy_to(aside / path.relative_to(segment).as_posix())
    if document.is_file():
        document.copy_to(aside / DOCUMENT)
    document.unlink()  # before the data: a document never lacks them
    for path in others:
        path.unlink()


def remove_objects(folder: ObjectPath) -> None:
    """Remove an object, an attempt, or a segment with its data.

    A document goes first, so that none lacks its data. One that was set aside may name the data of
    another segment, whose document it is: these stay.

    Raises
    ------
    WriteFailed, Unreachable
    """
    document, recipe_folder = folder / DOCUMENT, folder.parent.parent
    attempt = attempt_of(document)
    document.unlink()
    folder.unlink()
    places: list[Place] = [folder]
    if attempt is not None:
        data = data_folder(recipe_folder, attempt)
        if folder.parent.name != "quarantine" or data in find_unpublished(recipe_folder):
            places.append(data)
    for place in places:
        assert isinstance(place, ObjectPath)
        for path, _ in list(place.below()):
            path.unlink()
