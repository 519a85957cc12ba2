"""Seeing what a process does to files that are not its own: folders in, events out (Linux)."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path
from typing import Any

OPEN, MODIFY, MOVED, CREATE, DELETE = 0x20, 0x2, 0xC0, 0x100, 0x200
_HEAD = struct.Struct("iIII")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_TARGETS = {
    "os.rename": (1, 3),
    "os.mkdir": (0, 2),
    "os.rmdir": (0, 1),
    "os.link": (1, 3),
    "os.symlink": (1, 2),
    "os.remove": (0, 1),
}
"""Where the arguments of an event have the path, and the folder that it is relative to."""
_HARMLESS = ("/dev/null", "/dev/tty", "/proc/", "/dev/shm/sem.")


class Watch:
    """Reports every change in some folders, and every look into others, by any process."""

    def __init__(self, folders: list[Path], looked_at: list[Path]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._folders: dict[int, Path] = {}
        for folder in folders:
            mask = MODIFY | MOVED | CREATE | DELETE | (OPEN if folder in looked_at else 0)
            number = self._libc.inotify_add_watch(self._handle, os.fsencode(folder), mask)
            if number < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))
            self._folders[number] = folder

    def seen(self) -> tuple[list[str], list[str]]:
        """Paths that were changed, and paths that were opened, since last asked."""
        changed, opened = [], []
        while True:
            try:
                content = os.read(self._handle, 1 << 16)
            except BlockingIOError:
                return changed, opened
            at = 0
            while at < len(content):
                number, mask, _, length = _HEAD.unpack_from(content, at)
                name = content[at + _HEAD.size :][:length].rstrip(b"\0").decode()
                at += _HEAD.size + length
                path = str(self._folders.get(number, Path("?")) / name)
                (opened if mask & OPEN and not mask & ~(OPEN | 0x40000000) else changed).append(
                    path
                )

    def close(self) -> None:
        """Stop watching."""
        os.close(self._handle)


class Audit:
    """Notes what Python itself opens outside some folders; for the rest of this process."""

    def __init__(self, own: list[Path], looked_at: list[str]) -> None:
        self._own = [os.path.realpath(each) for each in own]
        self._store = looked_at
        self.written: list[str] = []
        self.followed: list[str] = []
        self.on = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            self._opened(*arguments[:3])
        elif event in _TARGETS:
            at, folder = _TARGETS[event]
            if arguments[folder] < 0:  # else `Watch` sees it, if anybody
                self._wrote(arguments[at])

    def _opened(self, path: Any, mode: Any, flags: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if isinstance(flags, int) and flags & _WRITING:
            self._wrote(path)
            return
        if isinstance(flags, int) and flags & os.O_PATH:  # which opens nothing
            return
        text = os.fsdecode(path)
        if any(text.startswith(each) for each in (*self._own, "/proc/self/fd/")):
            real = os.path.realpath(text)
            if any(real.startswith(each) for each in self._store):
                self.followed.append(f"{text} -> {real}")

    def _wrote(self, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        text = os.fsdecode(path)
        real = os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))  # noqa: PTH118, PTH119, PTH120
        inside = any(real == each or real.startswith(f"{each}/") for each in self._own)
        if not inside and not real.startswith(_HARMLESS):
            self.written.append(real)
