"""Headers of files that torch pickled: zip archives since torch 1.6, one stream before.

The pickle is run by no code of its own: a name of a class or a function stands for one of the few
things below, or the file is refused. What comes out are plain values and places of tensors.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from embedstore.backbones.folder import LFS
from embedstore.backbones.tensor_file import SIZES, StoredTensor, TensorFile, unreadable
from embedstore.errors import BadWeights

MOST_PICKLE = 4 << 20
"""Largest pickle that is read, in bytes; a model of a thousand tensors has 0.2 MB."""
MOST_DIRECTORY = 16 << 20
"""Largest list of files of an archive that is read, in bytes."""
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
"""What the stream of an old file begins with."""
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_ZIP, _TAR, _PICKLE = b"PK\x03\x04", b"ustar", b"\x80"
_TAR_AT = 257
_END, _END_64, _END_64_BYTES, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", 56, 20
_TAIL = (1 << 16) + 128  # a comment, and the records at the end of an archive
_ENTRY = 30  # bytes before the name in the header of a file in an archive
_LENGTH = 8  # bytes of the number of values that stands before them in an old file

# what torch and plain containers are pickled with; sets, byte arrays, extension codes are not
_OPCODES = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "MEMOIZE"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("INT", "LONG", "FLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING", "BINSTRING"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("LIST", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
)


class _Refused(Exception):
    """The pickle holds what no weights do; the text says what."""


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Numbers that tensors are views of."""

    key: str
    dtype: str
    numbers: int
    first: int = 0
    """Of a view: its first number."""


@dataclass(frozen=True)
class _View:
    """A tensor: its storage and place in it, in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> _View:
    whole = [offset, *shape, *stride]
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in whole):
        raise _Refused("a tensor in it has no possible shape")
    if len(shape) != len(stride):
        raise _Refused("a tensor in it has a shape and a stride of other lengths")
    return _View(storage, offset, tuple(shape), tuple(stride))


def _first(value: Any, *rest: Any) -> Any:
    return value


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in pairs:
        _set(made, key, value)
    return made


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch.Size": _first,
    "torch.device": _first,
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
}
_TYPES = {f"torch.{name}" for name in (*STORAGES, *SIZES)}
_NAMESPACE = "argparse.Namespace"


_Python: Any = pickle._Unpickler


class _Unpickler(_Python):
    """Python's own unpickler, less what a file of weights has no use for.

    The one in C makes room for as many remembered objects as a file says.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: _Python.dispatch[code] for code in (getattr(pickle, name)[0] for name in _OPCODES)
    }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _CALLS or full in _TYPES or full == _NAMESPACE:
            return _Name(full)
        raise _Refused(
            f"it holds an object of {full[:100]!r}, and only tensors and plain values are read"
        )

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", _Name(name=name), str(key), str(), int(numbers), *view):
                dtype = STORAGES.get(name.removeprefix("torch."))
                if dtype is None or numbers < 0:
                    raise _Refused(f"it holds {name!r}, which no weights are made of")
                match view:
                    case [] | [None]:
                        return _Storage(key, dtype, numbers)
                    case [(str(), int(first), int(length))] if first >= 0 and length >= 0:
                        return _Storage(key, dtype, length, first)
        raise _Refused("a tensor in it lies in no known place")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        called = self.stack[-1]
        make = _CALLS.get(called.name) if isinstance(called, _Name) else None
        if make is None or not isinstance(arguments, tuple):
            raise _Refused("it calls what is no function")
        self.stack[-1] = make(*arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        if self.stack[-1] != _Name(_NAMESPACE) or arguments != ():
            raise _Refused("it makes an object that no weights have")
        self.stack[-1] = Namespace()

    def load_build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, Namespace) and isinstance(state, dict):
            vars(made).update({key: value for key, value in state.items() if type(key) is str})
        # what a dictionary carries beside its items says nothing of the tensors

    def load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        _set(self.stack[-1], key, value)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            _set(self.stack[-1], key, value)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_ordered(zip(items[::2], items[1::2], strict=True)))


_Unpickler.dispatch |= {
    pickle.REDUCE[0]: _Unpickler.load_reduce,
    pickle.NEWOBJ[0]: _Unpickler.load_newobj,
    pickle.BUILD[0]: _Unpickler.load_build,
    pickle.SETITEM[0]: _Unpickler.load_setitem,
    pickle.SETITEMS[0]: _Unpickler.load_setitems,
    pickle.DICT[0]: _Unpickler.load_dict,
}


def _set(made: Any, key: Any, value: Any) -> None:
    # tuples in tuples in tuples are small, and take for ever to hash
    if not isinstance(made, dict) or not isinstance(key, str | int | float | None):
        raise _Refused("it holds a dictionary that no weights have")
    made[key] = value


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
            raise _Refused("it is a pointer of Git LFS, not the file itself")
        elif head[_TAR_AT:] == _TAR:
            raise _Refused("it is a tar archive, which torch has not written since 2017")
        else:
            raise _Refused("it is no file that torch has saved" if head else "it is empty")
        return _header(path, whole, place)
    except _Refused as error:
        raise unreadable(path, str(error)) from None


_Place = Callable[[_Storage], tuple[int, int]]
"""Where a storage lies in the file: its first byte, and the one after its last."""


def _header(path: Path, whole: Any, place: _Place) -> TensorFile:
    extra = None
    if isinstance(whole, dict) and path.suffix == ".pth" and isinstance(whole.get("model"), dict):
        whole, extra = whole["model"], whole.get("args")
    if not isinstance(whole, dict):
        raise _Refused("it holds no tensors by name")
    tensors = {}
    for name, held in whole.items():
        if not isinstance(name, str) or not isinstance(held, _View):
            raise _Refused(f"it holds {str(name)[:100]!r}, which is no tensor")
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
        raise _Refused(f"it is a zip archive that lists more than {MOST_DIRECTORY} bytes of names")
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # by what is damaged: BadZipFile, ValueError, struct.error, ...
        raise _Refused("it is a zip archive that was cut, or is damaged") from error
    entries = {each.filename: each for each in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise _Refused("it is a zip archive, but none that torch has saved")
    root = roots[0]
    if f"{root}constants.pkl" in entries:
        raise _Refused("it is a TorchScript program, not weights")
    order = entries.get(f"{root}byteorder")
    if order is not None and _content(archive, order, 10) != b"little":
        raise _Refused("its numbers are big-endian")
    whole = _unpickle(io.BytesIO(_content(archive, entries[f"{root}data.pkl"], MOST_PICKLE)))

    def place(storage: _Storage) -> tuple[int, int]:
        entry = entries.get(f"{root}data/{storage.key}")
        needed = storage.numbers * SIZES[storage.dtype]
        if entry is None or entry.compress_type != zipfile.ZIP_STORED:
            raise _Refused(f"the numbers {storage.key[:20]!r} are not in it")
        if not needed <= entry.file_size == entry.compress_size:
            raise _Refused(
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
        raise _Refused("it is a zip archive that was cut, or is damaged")
    large = at - _LOCATOR - _END_64_BYTES  # where Python looks for it
    if large >= 0 and tail.startswith(_END_64, large):
        return int.from_bytes(tail[large + 40 : large + 48], "little")
    return int.from_bytes(tail[at + 12 : at + 16], "little")


def _remembering(place: _Place) -> _Place:
    known: dict[_Storage, tuple[int, int]] = {}

    def remembered(storage: _Storage) -> tuple[int, int]:
        if storage not in known:
            known[storage] = place(storage)
        return known[storage]

    return remembered


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    """A small file of an archive; torch compresses none."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise _Refused(f"{entry.filename[:100]!r} in it is compressed")
    if entry.file_size > most:
        raise _Refused(
            f"{entry.filename[:100]!r} in it has {entry.file_size} bytes, more than {most}"
        )
    try:
        return archive.read(entry)
    except Exception as error:  # as above
        raise _Refused(f"{entry.filename[:100]!r} in it is damaged") from error


def _first_byte(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where the content of an entry begins: after its own header, whose size varies."""
    file.seek(entry.header_offset)
    head = file.read(_ENTRY)
    if len(head) < _ENTRY or not head.startswith(_ZIP):
        raise _Refused(f"{entry.filename[:100]!r} in it is damaged")
    name, extra = (int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
    return int(entry.header_offset) + len(head) + name + extra


def _from_stream(file: BinaryIO, size: int) -> tuple[Any, _Place]:
    """An old file: five pickles one after another, then the numbers of each storage."""
    head = io.BytesIO(file.read(MOST_PICKLE))
    if _unpickle(head) != MAGIC or _unpickle(head) != VERSION:
        raise _Refused("it is no file that torch has saved")
    _unpickle(head)  # sizes of numbers on the machine that wrote it
    whole, keys = _unpickle(head), _unpickle(head)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _Refused("it does not list its numbers")
    order = {key: at for at, key in enumerate(keys)}
    types = _storages(whole)
    places: dict[str, tuple[int, int]] = {}
    at = head.tell()
    for key in sorted(order, key=order.__getitem__):
        file.seek(at)
        numbers = int.from_bytes(file.read(_LENGTH), "little")
        start = at + _LENGTH
        at = start + numbers * SIZES[types.get(key, "uint8")]
        if at > size:
            raise _Refused(
                f"the numbers {key[:20]!r} declare bytes {start} to {at}, and the file has {size}"
            )
        places[key] = (start, at)

    def place(storage: _Storage) -> tuple[int, int]:
        if storage.key not in places:
            raise _Refused(f"the numbers {storage.key[:20]!r} are not in it")
        return places[storage.key]

    return whole, place


def _storages(whole: Any) -> Mapping[str, str]:
    """Type of each storage by its key, of all tensors in plain containers."""
    found: dict[str, str] = {}
    left, seen = [whole], set[int]()
    while left:
        each = left.pop()
        if isinstance(each, _View):
            found[each.storage.key] = each.storage.dtype
        elif isinstance(each, dict | list | tuple) and id(each) not in seen:
            seen.add(id(each))
            left += each.values() if isinstance(each, dict) else each
    return found


def _unpickle(file: BinaryIO) -> Any:
    try:
        return _Unpickler(file, encoding="utf-8").load()
    except (_Refused, BadWeights):
        raise
    # a damaged pickle raises whatever the step that meets it does
    except Exception as error:
        raise _Refused("its pickle is cut, or holds what no weights do") from error
