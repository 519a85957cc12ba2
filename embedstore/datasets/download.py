"""Downloads that go on where they stopped: a URL in, a file with the registered checksum out."""

from __future__ import annotations

import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from embedstore.datasets.checksum import check_form
from embedstore.datasets.entry import Form
from embedstore.errors import BadChecksum, BadInput, DownloadFailed
from embedstore.regular_files import read_regular
from embedstore.store.files import replace_file, sync_folder, write_atomically, writing_to

log = logging.getLogger(__name__)

PART_SUFFIX, TAG_SUFFIX = ".part", ".part.etag"
ATTEMPTS = 4
"""Requests in a row that bring nothing new before one run gives up."""
_BLOCK = 1 << 18
_MOST_ETAG = 1 << 10
_NUMBER = re.compile(r"[0-9]{1,18}")
_TIMEOUT = 60.0  # seconds without a byte
_SAID_EVERY = 10.0  # seconds
_NOT_SATISFIABLE, _TOO_MANY = 416, 429


class _Cut(Exception):
    """The connection ended before the file did."""


def download(form: Form, folder: Path, *, pause: float = 1.0) -> Path:
    """Bring a file into a folder under its name, once its checksum is right.

    What has come so far stands beside it as `NAME.part`; the next attempt or run asks the server
    for the rest alone (RFC 9110, Range with If-Range). A server that sends everything again is
    taken at its word.

    Parameters
    ----------
    form : with a URL
    pause : seconds before a second attempt; doubled before each further one

    Raises
    ------
    DownloadFailed
        The server refuses, or cannot be reached; what has come stays.
    BadChecksum
        What came is not the registered file; it is removed.
    BadInput
        A link, a pipe or a folder stands where the download would be written.
    WriteFailed
    """
    if form.url is None:
        raise ValueError(f"{form.name} has no URL")
    final = folder / form.name
    part, tag = folder / (form.name + PART_SUFFIX), folder / (form.name + TAG_SUFFIX)
    with writing_to(part):
        folder.mkdir(parents=True, exist_ok=True)
        for path in (part, tag):  # what is downloaded never goes through a link or a pipe
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise BadInput(f"{str(path)!r} is no regular file.", "Remove it.")
        part.touch()
    log.info("Downloading %s", form.url)
    idle = 0
    while True:
        before = part.stat().st_size
        try:
            _receive(form.url, part, tag, form.size)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != _TOO_MANY:
                raise DownloadFailed(
                    f"{form.url} answers {error.code} {error.reason}.",
                    f"Download it by hand, and name its folder with --from; it must be "
                    f"{form.checksum}.",
                ) from error
            reason = f"answers {error.code}"
        except (OSError, http.client.HTTPException, _Cut) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split()) or "was cut"
        idle = 0 if part.stat().st_size > before else idle + 1
        if idle == ATTEMPTS:
            raise DownloadFailed(
                f"{form.url} cannot be downloaded: {reason}; "
                f"{part.stat().st_size:,} bytes are here.",
                "Run the same command again to go on, or give a folder that has the file with "
                "--from.",
            )
        log.info("%s: the connection broke (%s); going on", form.name, reason)
        time.sleep(pause * 2**idle)
    try:
        check_form(part, form, "It was removed. Download it anew, or report that it has changed.")
    except BadChecksum:
        part.unlink()
        tag.unlink(missing_ok=True)
        raise
    with writing_to(final):
        replace_file(part, final)
        tag.unlink(missing_ok=True)
        sync_folder(folder)
    return final


def _receive(url: str, part: Path, tag: Path, size: int | None) -> None:
    """Append what is missing to the part, or write it anew; raises where the end did not come."""
    have = part.stat().st_size
    if size is not None and have == size:
        return
    if size is not None and have > size:  # not ours: the checksum could never be right
        have = 0
    headers = {"User-Agent": "embedstore", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if (etag := _remembered(tag)) is not None:
            headers["If-Range"] = etag
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if error.code != _NOT_SATISFIABLE or not have:
            raise
        if error.headers.get("Content-Range", "") == f"bytes */{have}":
            return  # all of it had come before
        with writing_to(part):
            os.truncate(part, 0)
        raise _Cut("the server has no such rest of the file") from error
    with response:
        start, total = _extent(response, have)
        _remember(tag, response.headers.get("ETag"))
        with writing_to(part):
            file = part.open("r+b")
        with file:
            with writing_to(part):
                file.truncate(start)
                file.seek(start)
            said = time.monotonic()
            while block := response.read(_BLOCK):
                with writing_to(part):
                    file.write(block)
                if size is not None and file.tell() > size:  # its checksum cannot be right
                    return
                if time.monotonic() - said > _SAID_EVERY:
                    said = time.monotonic()
                    log.info("%s: %s bytes of %s", part.stem, f"{file.tell():,}", total or "?")
            with writing_to(part):
                file.flush()
                os.fsync(file.fileno())
            if total is not None and file.tell() < total:
                raise _Cut(f"{file.tell():,} of {total:,} bytes came")


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the body begins in the file, and the size of the whole file, in bytes."""
    length: str | None = response.headers.get("Content-Length")
    if response.status != http.client.PARTIAL_CONTENT:
        return 0, int(length) if length and _NUMBER.fullmatch(length) else None
    found = re.fullmatch(
        r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)",
        response.headers.get("Content-Range", ""),
    )
    if not found or int(found[1]) > have:
        raise _Cut("the server sent another part than was asked for")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _remembered(tag: Path) -> str | None:
    """The ETag that was kept, if it can stand in a header."""
    try:
        etag = read_regular(tag, most=_MOST_ETAG).decode("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return etag if etag.isprintable() and etag else None


def _remember(tag: Path, etag: str | None) -> None:
    """Keep a strong ETag: If-Range takes no weak one."""
    if etag and not etag.startswith("W/"):
        write_atomically(tag, etag.encode())
    else:
        tag.unlink(missing_ok=True)
