"""Where the damaged store lies: a sandbox on disk, or a bucket; put back before each operation."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

from torture import damages
from torture.damages import SPARSE_BYTES, Damage, changed

Tree = dict[str, bytes]
"""Content of every file by its path, `store/...` or `run/...`."""


class Place(Protocol):
    """One store and one run, and what is right in them."""

    tree: Tree
    store: str

    def keep(self) -> None:
        """Take what is there now for undamaged."""

    def open(self) -> None:
        """Let operations meet what fails by itself, from now on."""

    def reset(self) -> None:
        """Undo everything since `keep`."""

    def apply(self, damage: Damage) -> bool:
        """Damage it; False where that changes nothing."""


class Sandbox:
    """Folders in which operations run: all but three of them belong to somebody else.

    `outside` holds files that links lead to, `w/x/y` is above the store, `home` is the home.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home, self.outside = root / "home", root / "outside"
        self.folder = root / "w" / "x" / "y"
        self.inputs, self.out, self.run = (self.folder / each for each in ("inputs", "out", "run"))
        for each in (self.home, self.outside, self.inputs, self.out):
            each.mkdir(parents=True)

    @property
    def foreign(self) -> list[Path]:
        """Folders in which nothing may be written."""
        above = [self.root, self.root / "w", self.root / "w" / "x", self.folder]
        return [*above, self.inputs, self.home, self.outside]

    def clear_out(self) -> None:
        """Empty the folder for output."""
        for each in self.out.iterdir():
            _remove(each)


class OnDisk:
    """A store in the sandbox."""

    def __init__(self, sandbox: Sandbox, parts: tuple[str, ...] = ("store", "run")) -> None:
        self.sandbox, self.parts = sandbox, parts
        self.store = str(sandbox.folder / "store")
        self.tree: Tree = {}
        self._stats: dict[str, tuple[int, ...]] = {}

    def keep(self) -> None:
        """Take what is there now for undamaged."""
        self.tree = {}
        for path in self._files():
            self.tree[path] = (self.sandbox.folder / path).read_bytes()
        self._stats = self._scan()

    def open(self) -> None:
        """Nothing fails by itself here."""

    def reset(self) -> None:
        """Write again what differs, remove what is new."""
        self.sandbox.clear_out()
        now = self._scan()
        if now == self._stats:
            return
        for each in self.sandbox.outside.iterdir():
            _remove(each)
        for path in sorted(now.keys() - self._stats.keys(), key=len, reverse=True):
            _remove(self.sandbox.folder / path)
        for path in sorted(self._stats, key=len):
            full = self.sandbox.folder / path
            if now.get(path) == self._stats[path]:
                continue
            if path in self.tree:
                _remove(full)
                full.write_bytes(self.tree[path])
            elif not full.is_dir() or full.is_symlink():
                _remove(full)
                full.mkdir(parents=True)
        self._stats = self._scan()

    def apply(self, damage: Damage) -> bool:
        """Damage one file or folder."""
        path = self.sandbox.folder / damage.path
        match damage.kind:
            case damages.SWAP:
                other, between = self.sandbox.folder / damage.other, path.with_name("between")
                path.rename(between)
                other.rename(path)
                between.rename(other)
            case damages.SPARSE:
                os.truncate(path, SPARSE_BYTES)
            case damages.DELETE:
                _remove(path)
            case damages.FOLDER:
                _remove(path)
                path.mkdir()
            case damages.FIFO:
                _remove(path)
                os.mkfifo(path)
            case damages.LINK:
                twin = self.sandbox.outside / hashlib.md5(damage.path.encode()).hexdigest()
                _remove(twin)
                path.rename(twin)
                path.symlink_to(twin)
            case damages.DEVICE:
                _remove(path)
                path.symlink_to("/dev/zero")
            case damages.LOOP:
                _remove(path)
                path.symlink_to(path)
            case _:
                content = changed(damage, self.tree)
                if content is None or content == self.tree[damage.path]:
                    return False
                path.write_bytes(content)
        return True

    def _files(self) -> list[str]:
        return [path for path, status in self._scan().items() if stat.S_ISREG(status[0])]

    def _scan(self) -> dict[str, tuple[int, ...]]:
        """Mode, size, inode and time of everything; a folder's mode alone."""
        found: dict[str, tuple[int, ...]] = {}
        left = [name for name in self.parts if (self.sandbox.folder / name).exists()]
        while left:
            path = left.pop()
            status = (self.sandbox.folder / path).lstat()
            found[path] = (status.st_mode,)
            if stat.S_ISDIR(status.st_mode):
                left += [f"{path}/{name}" for name in os.listdir(self.sandbox.folder / path)]  # noqa: PTH208
            else:
                found[path] += (status.st_size, status.st_ino, status.st_mtime_ns)
        return found


class InBucket:
    """A store in a bucket, damaged behind the back of the proxy; its run lies in the sandbox."""

    def __init__(self, sandbox: Sandbox, port: int, bucket: str, folder: str, proxy: str) -> None:
        self.run = OnDisk(sandbox, ("run",))
        self.sandbox, self.bucket, self.folder, self.proxy = sandbox, bucket, folder, proxy
        self.store = f"s3://{bucket}/{folder}"
        self.tree: Tree = {}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._tags: dict[str, str] = {}

    def keep(self) -> None:
        """Fetch everything once."""
        self.run.keep()
        self._tags = self._list()
        self.tree = dict(self.run.tree)
        for name in self._tags:
            self.tree[f"store/{name}"] = self._ask("GET", name)

    def open(self) -> None:
        """Send requests through the proxy."""
        os.environ["AWS_ENDPOINT"] = self.proxy

    def reset(self) -> None:
        """Put again what differs, remove what is new."""
        self.run.reset()
        now = self._list()
        for name in now.keys() - self._tags.keys():
            self._ask("DELETE", name)
        for name, tag in self._tags.items():
            if now.get(name) != tag:
                self._ask("PUT", name, self.tree[f"store/{name}"])

    def apply(self, damage: Damage) -> bool:
        """Damage one object, or all below a prefix."""
        if damage.path.startswith("run/"):
            return self.run.apply(damage)
        if damage.path == "store":
            return False
        name = damage.path.partition("/")[2]
        below = [each for each in self._tags if each == name or each.startswith(f"{name}/")]
        match damage.kind:
            case damages.SWAP:
                other = damage.other.partition("/")[2]
                theirs = [each for each in self._tags if each.startswith(f"{other}/")]
                moved = {f"{other}{each[len(name) :]}": each for each in below}
                moved |= {f"{name}{each[len(other) :]}": each for each in theirs}
                for each in {*below, *theirs} - moved.keys():
                    self._ask("DELETE", each)
                for to, each in moved.items():
                    self._ask("PUT", to, self.tree[f"store/{each}"])
            case damages.DELETE | damages.FOLDER:
                for each in below:
                    self._ask("DELETE", each)
                if damage.kind == damages.FOLDER:
                    self._ask("PUT", f"{name}/x", b"x")
            case _:
                if damage.path not in self.tree:
                    return False
                content = changed(damage, self.tree)
                if content is None or content == self.tree[damage.path]:
                    return False
                self._ask("PUT", name, content)
        return True

    def _list(self) -> dict[str, str]:
        text = self._request("GET", f"/{self.bucket}?list-type=2&prefix={quote(self.folder)}/")
        entries = re.findall(r"<Key>(.*?)</Key>.*?<ETag>(.*?)</ETag>", text.decode(), re.DOTALL)
        return {unquote(key)[len(self.folder) + 1 :]: tag for key, tag in entries}

    def _ask(self, method: str, name: str, content: bytes | None = None) -> bytes:
        return self._request(method, f"/{self.bucket}/{quote(f'{self.folder}/{name}')}", content)

    def _request(self, method: str, path: str, content: bytes | None = None) -> bytes:
        self._connection.request(method, path, content, {"Authorization": "AWS key:unchecked"})
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {body[:200]!r}")
        return body


def attempts(tree: Tree, parse: Callable[[bytes], dict[str, object]]) -> dict[str, str]:
    """Segment by the folder of its data, for stores in a bucket."""
    found = {}
    for path, content in tree.items():
        if path.endswith("/segment.json"):
            found[str(parse(content).get("data", ""))] = path.split("/")[-2]
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
