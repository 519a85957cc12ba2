"""Headers of files that torch pickled: zip archives since torch 1.6, one stream before.

What a file says of itself is compared with its size; values are left where they are.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from embedstore.backbones.folder import LFS
from embedstore.backbones.tensor_file import SIZES, StoredTensor, TensorFile, unreadable
from embedstore.backbones.torch_pickle import Refused, Storage, View, storages_of, unpickle

MOST_PICKLE = 4 << 20
"""Largest pickle that is read, in bytes; a model of a thousand tensors has 0.2 MB."""
MOST_DIRECTORY = 16 << 20
"""Largest list of files of an archive that is read, in bytes."""
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
"""What the stream of an old file begins with."""
_ZIP, _TAR, _PICKLE = b"PK\x03\x04", b"ustar", b"\x80"
_TAR_AT = 257
_END, _END_64, _END_64_BYTES, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", 56, 20
_TAIL = (1 << 16) + 128  # a comment, and the records at the end of an archive
_ENTRY = 30  # bytes before the name in the header of a file in an archive
_LENGTH = 8  # bytes of the number of values that stands before them in an old file


def read_pickled(path: Path, file: BinaryIO, size: int) -> TensorFile:
    """The header of an open file: its tensors by name, or those under `model`.

    Parameters
    ----------
    size : of the file, in bytes

    Raises
    ------
    BadWeights
        It is no such file, was cut, or holds other things than tensors and plain values.
    """
    head = file.read(_TAR_AT + len(_TAR))
    file.seek(0)
    try:
        if head.startswith(_ZIP):
            whole, place = _from_archive(file, size)
        elif head.startswith(_PICKLE):
            whole, place = _from_stream(file, size)
        elif head.startswith(LFS):
            raise Refused("it is a pointer of Git LFS, not the file itself")
        elif head[_TAR_AT:] == _TAR:
            raise Refused("it is a tar archive, which torch has not written since 2017")
        else:
            raise Refused("it is no file that torch has saved" if head else "it is empty")
        return _header(path, whole, place)
    except Refused as error:
        raise unreadable(path, str(error)) from None


_Place = Callable[[Storage], tuple[int, int]]
"""Where a storage lies in the file: its first byte, and the one after its last."""


def _header(path: Path, whole: Any, place: _Place) -> TensorFile:
    extra = None
    if isinstance(whole, dict) and path.suffix == ".pth" and isinstance(whole.get("model"), dict):
        whole, extra = whole["model"], whole.get("args")
    if not isinstance(whole, dict):
        raise Refused("it holds no tensors by name")
    tensors = {}
    for name, held in whole.items():
        if not isinstance(name, str) or not isinstance(held, View):
            raise Refused(f"it holds {str(name)[:100]!r}, which is no tensor")
        start, end = place(held.storage)
        first = start + (held.storage.first + held.offset) * SIZES[held.storage.dtype]
        tensors[name] = StoredTensor(
            held.storage.dtype, held.shape, first, end, _gaps(held.shape, held.stride)
        )
    return TensorFile(path, tensors, extra)


def _gaps(shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...] | None:
    """The stride of a tensor that does not lie in order without gaps."""
    plain = tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))
    same = all(n == 1 or a == b for n, a, b in zip(shape, stride, plain, strict=True))
    return None if same or 0 in shape else stride


def _from_archive(file: BinaryIO, size: int) -> tuple[Any, _Place]:
    if _directory_bytes(file, size) > MOST_DIRECTORY:
        raise Refused(f"it is a zip archive that lists more than {MOST_DIRECTORY} bytes of names")
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # by what is damaged: BadZipFile, ValueError, struct.error, ...
        raise Refused("it is a zip archive that was cut, or is damaged") from error
    entries = {each.filename: each for each in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Refused("it is a zip archive, but none that torch has saved")
    root = roots[0]
    if f"{root}constants.pkl" in entries:
        raise Refused("it is a TorchScript program, not weights")
    order = entries.get(f"{root}byteorder")
    if order is not None and _content(archive, order, 10) != b"little":
        raise Refused("its numbers are big-endian")
    whole = unpickle(io.BytesIO(_content(archive, entries[f"{root}data.pkl"], MOST_PICKLE)))

    def place(storage: Storage) -> tuple[int, int]:
        entry = entries.get(f"{root}data/{storage.key}")
        needed = storage.numbers * SIZES[storage.dtype]
        if entry is None or entry.compress_type != zipfile.ZIP_STORED:
            raise Refused(f"the numbers {storage.key[:20]!r} are not in it")
        if not needed <= entry.file_size == entry.compress_size:
            raise Refused(
                f"the numbers {storage.key[:20]!r} declare {needed} bytes, and the archive has "
                f"{entry.file_size}"
            )
        first = _first_byte(file, entry)
        return first, first + needed

    return whole, _remembering(place)


def _directory_bytes(file: BinaryIO, size: int) -> int:
    """Bytes of an archive's list of files, as its last record says (APPNOTE 4.3.14 and 4.3.16)."""
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    at = tail.rfind(_END)
    if at < 0:
        raise Refused("it is a zip archive that was cut, or is damaged")
    large = at - _LOCATOR - _END_64_BYTES  # where Python looks for it
    if large >= 0 and tail.startswith(_END_64, large):
        return int.from_bytes(tail[large + 40 : large + 48], "little")
    return int.from_bytes(tail[at + 12 : at + 16], "little")


def _remembering(place: _Place) -> _Place:
    known: dict[Storage, tuple[int, int]] = {}

    def remembered(storage: Storage) -> tuple[int, int]:
        if storage not in known:
            known[storage] = place(storage)
        return known[storage]

    return remembered


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    """A small file of an archive; torch compresses none."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise Refused(f"{entry.filename[:100]!r} in it is compressed")
    if entry.file_size > most:
        raise Refused(
            f"{entry.filename[:100]!r} in it has {entry.file_size} bytes, more than {most}"
        )
    try:
        return archive.read(entry)
    except Exception as error:  # as above
        raise Refused(f"{entry.filename[:100]!r} in it is damaged") from error


def _first_byte(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where the content of an entry begins: after its own header, whose size varies."""
    file.seek(entry.header_offset)
    head = file.read(_ENTRY)
    if len(head) < _ENTRY or not head.startswith(_ZIP):
        raise Refused(f"{entry.filename[:100]!r} in it is damaged")
    name, extra = (int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
    return int(entry.header_offset) + len(head) + name + extra


def _from_stream(file: BinaryIO, size: int) -> tuple[Any, _Place]:
    """An old file: five pickles one after another, then the numbers of each storage."""
    head = io.BytesIO(file.read(MOST_PICKLE))
    if unpickle(head) != MAGIC or unpickle(head) != VERSION:
        raise Refused("it is no file that torch has saved")
    unpickle(head)  # sizes of numbers on the machine that wrote it
    whole, keys = unpickle(head), unpickle(head)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("it does not list its numbers")
    order = {key: at for at, key in enumerate(keys)}
    types = storages_of(whole)
    places: dict[str, tuple[int, int]] = {}
    at = head.tell()
    for key in sorted(order, key=order.__getitem__):
        file.seek(at)
        numbers = int.from_bytes(file.read(_LENGTH), "little")
        start = at + _LENGTH
        at = start + numbers * SIZES[types.get(key, "uint8")]
        if at > size:
            raise Refused(
                f"the numbers {key[:20]!r} declare bytes {start} to {at}, and the file has {size}"
            )
        places[key] = (start, at)

    def place(storage: Storage) -> tuple[int, int]:
        if storage.key not in places:
            raise Refused(f"the numbers {storage.key[:20]!r} are not in it")
        return places[storage.key]

    return whole, place
