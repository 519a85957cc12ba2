"""Arrays in `.npy` files of our own: one of known type and shape in, nothing else accepted.

The header is written and compared byte by byte, so that no parser meets what somebody else wrote;
numpy reads the files as any other.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from google_crc32c import extend as extend_crc32c
from numpy.typing import NDArray

from embedstore.regular_files import check_written
from embedstore.store.objects import Place, open_in

START = b"\x93NUMPY\x01\x00"
ALIGN = 64
BLOCK = 4 << 20


class WrongArray(ValueError):
    """A file that does not hold the array that it should."""


def write_array(
    path: Path, dtype: str, shape: tuple[int, ...], parts: Iterable[NDArray[Any]]
) -> None:
    """Write an array whose rows come in parts.

    Parameters
    ----------
    dtype : little-endian, such as `<f4`
    parts : C-contiguous once converted; together of the shape
    """
    with path.open("wb") as file:
        file.write(_header(dtype, shape))
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).data)


class ArrayFile:
    """An array to be read row by row; use as a context manager, and `finish` it."""

    def __init__(
        self,
        root: Place,
        path: Place,
        dtype: str,
        shape: tuple[int, ...],
        *,
        size: int,
        checksum: int,
    ) -> None:
        """Open a file and compare its size and its header with what they should be.

        Parameters
        ----------
        root : folder of the store
        size, checksum : bytes and crc32c of the whole file

        Raises
        ------
        OSError
            As by `objects.open_in`.
        WrongArray
        """
        self.name = path.name
        self._dtype, self._row, self._checksum = np.dtype(dtype), shape[1:], checksum
        header = _header(dtype, shape)
        self._file = open_in(root, path)
        try:
            assert isinstance(path, Path)
            check_written(self._file.fileno(), path)
            there = os.fstat(self._file.fileno()).st_size
            # in Python's numbers, which do not overflow
            wanted = len(header) + int(np.prod(shape, dtype=object)) * self._dtype.itemsize
            if not there == wanted == size:
                raise WrongArray(f"{self.name} has {there} bytes and should have {wanted}")
            if self._file.read(len(header)) != header:
                raise WrongArray(f"{self.name} does not hold {dtype} of shape {shape}")
            self._crc = extend_crc32c(0, header)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def take(self, count: int) -> NDArray[Any]:
        """The next rows: shape (count, ...); at most as many as are left may be asked for.

        Raises
        ------
        OSError, WrongArray
        """
        rows = np.empty((count, *self._row), self._dtype)
        left = rows.reshape(-1).view(np.uint8)
        while len(left):
            block = left[:BLOCK]
            if self._file.readinto(block.data) != len(block):
                raise WrongArray(f"{self.name} ends too early")
            self._crc = extend_crc32c(self._crc, block)
            left = left[len(block) :]
        return rows

    def finish(self) -> None:
        """Check what was read.

        Raises
        ------
        WrongArray
            It was not all, or it does not match its checksum.
        """
        if self._crc != self._checksum:
            raise WrongArray(f"{self.name} does not match its checksum")


def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Version 1.0 of numpy's format."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    length = len(START) + 2 + len(text) + 1
    text += " " * (-length % ALIGN) + "\n"
    return START + struct.pack("<H", len(text)) + text.encode("ascii")
