"""Memory that this process may still take: nothing in, bytes out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
"""Above /proc and /sys."""


def available_memory(root: Path = ROOT) -> int:
    """Bytes that the system has left, or fewer where control groups (containers, jobs) say so.

    Memory that only caches files counts as free. Reads Linux's /proc/meminfo and control groups
    of version 2; where there is no /proc, half of the machine's memory is taken to be free.
    """
    try:
        lines = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return max(min([free, *_left_in_groups(root)]), 0)


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes left under the limit of this process's control group and of those around it."""
    top = root / "sys/fs/cgroup"
    try:
        (own,) = [
            line.removeprefix("0::").lstrip("/")
            for line in (root / "proc/self/cgroup").read_text().splitlines()
            if line.startswith("0::")
        ]
    except (OSError, ValueError):
        return
    folder = top / own
    while folder.is_relative_to(top):
        try:
            limit, used = (
                int((folder / f"memory.{name}").read_text()) for name in ("max", "current")
            )
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield limit - used + int(stat["inactive_file"]) + int(stat["active_file"])
        except (OSError, KeyError, ValueError):
            pass  # no limit here: the word is `max`, or there are no such files
        folder = folder.parent
