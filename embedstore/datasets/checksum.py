"""Checksums of files: SHA-256, or the id git gives to their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from embedstore.datasets.entry import Form
from embedstore.errors import BadChecksum
from embedstore.regular_files import open_regular

_BLOCK = 1 << 20


def checksum_of(path: Path, kind: str) -> str:
    """The checksum of a file, as `KIND:DIGITS`.

    Parameters
    ----------
    kind : `sha256`, or `git-blob`: SHA-1 of `blob SIZE\\0` and the bytes (gitformat-pack(5))

    Raises
    ------
    ValueError
        There is no such kind.
    """
    if kind == "sha256":
        digest = hashlib.sha256()
    elif kind == "git-blob":
        head = b"blob %d\0" % path.stat().st_size
        digest = hashlib.sha1(head, usedforsecurity=False)
    else:
        raise ValueError(f"unknown checksum {kind!r}")
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


def check_form(path: Path, form: Form, fix: str) -> None:
    """Check that a file holds what a form of a data set must hold.

    Parameters
    ----------
    fix : what to do where it does not

    Raises
    ------
    BadChecksum
        Names the expected checksum and the one found.
    """
    found = checksum_of(path, form.checksum.partition(":")[0])
    if found != form.checksum:
        raise BadChecksum(
            f"{str(path)!r} is not the registered file: expected {form.checksum}, found {found}.",
            fix,
        )
