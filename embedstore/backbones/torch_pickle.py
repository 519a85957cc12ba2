"""Pickles of torch as plain values: bytes in; numbers, texts, containers and places of tensors out.

No code is run for a pickle: a name of a class or a function in it stands for one of the few things
below, or the pickle is refused.
"""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

from embedstore.backbones.tensor_file import SIZES

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


class Refused(Exception):
    """The pickle holds what no weights do; the text says what."""


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers that tensors are views of."""

    key: str
    dtype: str
    numbers: int
    first: int = 0
    """Of a view: its first number."""


@dataclass(frozen=True)
class View:
    """A tensor: its storage and place in it, in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild(
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    needs_gradient: Any = False,
    hooks: Any = None,
    lazy: Any = None,
) -> View:
    if lazy:  # torch keeps a view as "negative of" or "conjugate of" other numbers
        raise Refused("a tensor in it is kept as the negative or conjugate of other numbers")
    whole = [offset, *shape, *stride]
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in whole):
        raise Refused("a tensor in it has no possible shape")
    if len(shape) != len(stride):
        raise Refused("a tensor in it has a shape and a stride of other lengths")
    return View(storage, offset, tuple(shape), tuple(stride))


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
        raise Refused(
            f"it holds an object of {full[:100]!r}, and only tensors and plain values are read"
        )

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", _Name(name=name), str(key), str(), int(numbers), *view):
                dtype = STORAGES.get(name.removeprefix("torch."))
                if dtype is None or numbers < 0:
                    raise Refused(f"it holds {name!r}, which no weights are made of")
                match view:
                    case [] | [None]:
                        return Storage(key, dtype, numbers)
                    case [(str(), int(first), int(length))] if first >= 0 and length >= 0:
                        return Storage(key, dtype, length, first)
        raise Refused("a tensor in it lies in no known place")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        called = self.stack[-1]
        make = _CALLS.get(called.name) if isinstance(called, _Name) else None
        if make is None or not isinstance(arguments, tuple):
            raise Refused("it calls what is no function")
        self.stack[-1] = make(*arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        if self.stack[-1] != _Name(_NAMESPACE) or arguments != ():
            raise Refused("it makes an object that no weights have")
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
        raise Refused("it holds a dictionary that no weights have")
    made[key] = value


def unpickle(file: BinaryIO) -> Any:
    """What one pickle of a file holds; the file stands behind it then.

    Raises
    ------
    Refused
        It is cut, or holds other things than tensors and plain values.
    """
    try:
        return _Unpickler(file, encoding="utf-8").load()
    except Refused:
        raise
    # a damaged pickle raises whatever the step that meets it does
    except Exception as error:
        raise Refused("its pickle is cut, or holds what no weights do") from error


def storages_of(whole: Any) -> Mapping[str, str]:
    """Type of each storage by its key, of all tensors in plain containers."""
    found: dict[str, str] = {}
    left, seen = [whole], set[int]()
    while left:
        each = left.pop()
        if isinstance(each, View):
            found[each.storage.key] = each.storage.dtype
        elif isinstance(each, dict | list | tuple) and id(each) not in seen:
            seen.add(id(each))
            left += each.values() if isinstance(each, dict) else each
    return found
