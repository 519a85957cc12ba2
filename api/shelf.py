"""Saved probes by name: a folder in, descriptions and loaded probes out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from api.catalogue import Stamp, stamp_of
from api.embedder import needing_packages
from api.errors import DamagedProbe, MissingProbe, NotInstalled
from embedstore.errors import NewerFormat, NotFinite, StoreError
from probe.saved import INFO, WEIGHTS, Probe, ProbeInfo, load_probe, read_head, read_probe_info

log = logging.getLogger(__name__)

_Stamps = tuple[Stamp, Stamp]
"""Of a probe's document and of its weights."""


class Interval(NamedTuple):
    """Where a score lies, with some confidence."""

    low: float
    high: float
    confidence: float


class ProbeShelf:
    """The probes in a folder, or in a run of `probe grid`; listed anew each time, loaded once.

    Names are looked up in the list of folders, never joined to a path. Listing needs no torch.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = Lock()
        self._infos: dict[str, tuple[_Stamps, ProbeInfo]] = {}
        self._loaded: dict[str, tuple[_Stamps, Probe]] = {}
        self._results: tuple[Stamp, dict[str, Interval]] | None = None

    @property
    def run(self) -> Path | None:
        """Folder of the run of `probe grid` that the probes are in, if they are in one."""
        folder = self._folder
        return folder if folder is not None and (folder / "probes").is_dir() else None

    def names(self) -> list[str]:
        """Names of all probes, sorted."""
        return sorted(self._folders())

    def info(self, name: str) -> ProbeInfo:
        """What a probe says of itself.

        Raises
        ------
        MissingProbe
        DamagedProbe
            The folder cannot be read, or holds a head whose values are not finite.
        """
        folder, stamp = self._find(name)
        held = self._infos.get(name)
        if held is None or held[0] != stamp:
            try:
                found = read_probe_info(folder)
                read_head(folder, found)  # once, so that what is listed can predict
                held = self._infos[name] = (stamp, found)
            except StoreError as error:  # of a later version too
                raise _damaged(name, error) from error
        return held[1]

    def interval(self, name: str) -> Interval | None:
        """Bootstrap interval of a probe's test score, where its run has one."""
        if self._folder is None or not (self._folder / "probes").is_dir():
            return None
        path = self._folder / "results.json"
        stamp = stamp_of(path)
        if self._results is None or self._results[0] != stamp:
            self._results = (stamp, _read_intervals(path) if stamp is not None else {})
        return self._results[1].get(name)

    def load(self, name: str) -> Probe:
        """A probe ready to predict; loaded once, however many ask.

        Raises
        ------
        MissingProbe, DamagedProbe
        NotInstalled
            The server has no torch.
        """
        folder, stamp = self._find(name)
        held = self._loaded.get(name)
        if held is not None and held[0] == stamp:
            return held[1]
        with self._lock:
            held = self._loaded.get(name)
            if held is None or held[0] != stamp:
                try:
                    with needing_packages(f"Probe {name!r} cannot predict here"):
                        held = self._loaded[name] = (stamp, load_probe(folder))
                except NotInstalled:
                    raise
                except StoreError as error:
                    raise _damaged(name, error) from error
            return held[1]

    def _folders(self) -> dict[str, Path]:
        if self._folder is None:
            return {}
        root = self._folder / "probes" if self.run else self._folder
        return {path.parent.name: path.parent for path in root.glob(f"[!.]*/{INFO}")}

    def _find(self, name: str) -> tuple[Path, _Stamps]:
        folders = self._folders()
        if name not in folders:
            known = ", ".join(sorted(folders)) or "none yet"
            raise MissingProbe(f"There is no probe {name!r}.", f"Probes: {known}.")
        folder = folders[name]
        return folder, (stamp_of(folder / INFO), stamp_of(folder / WEIGHTS))


def _read_intervals(path: Path) -> dict[str, Interval]:
    """Intervals by probe; none where the results cannot be read, which the log tells."""
    try:
        found = json.loads(path.read_bytes()).get("comparisons", {})
        level = 1 - float(found.get("level", 0.05))
        pairs = {
            name: pair for name, pair in found.get("intervals", {}).items() if None not in pair
        }
        return {
            name: Interval(float(low), float(high), level) for name, (low, high) in pairs.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.error("%s: %r", path, error)
        return {}


def _damaged(name: str, error: StoreError) -> DamagedProbe:
    """What the client is told: the paths stay in the log."""
    log.error("probe %s: %s", name, error)
    if isinstance(error, NewerFormat):
        return DamagedProbe(
            f"Probe {name!r} cannot be used: a later version of embedstore wrote it.",
            "Install a newer embedstore on the server.",
        )
    if isinstance(error, NotFinite):
        return DamagedProbe(
            f"Probe {name!r} cannot be used: its training diverged, and its head is not finite.",
            "Train the probe again with a lower learning rate.",
        )
    return DamagedProbe(
        f"Probe {name!r} cannot be used: its folder is damaged.",
        "Its server's log says how; train the probe again or restore it.",
    )
