"""Saved probes by name: a folder in, descriptions and loaded probes out."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from api.embedder import needing_packages
from api.errors import DamagedProbe, MissingProbe, NotInstalled
from api.probe_folders import Place, find_places
from embedstore.errors import NewerFormat, NotFinite, StoreError, Unreachable
from probe.run_documents import RESULTS, read_results
from probe.saved import INFO, WEIGHTS, Probe, ProbeInfo, load_probe, read_head, read_probe_info

log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int, int] | None
"""What tells a file from the one that stood there before; None: there is none."""
_Stamps = tuple[_Stamp, _Stamp]
"""Of a probe's document and of its weights."""


class Interval(NamedTuple):
    """Where a score lies, with some confidence."""

    low: float
    high: float
    confidence: float


class Listed(NamedTuple):
    """One probe of a list."""

    name: str
    found: ProbeInfo | DamagedProbe
    interval: Interval | None


class ProbeShelf:
    """The probes below a folder: listed anew each time, read again only where a file changed.

    Names are looked up in the list of folders, never joined to a path. Listing needs no torch.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._reading, self._loading = Lock(), Lock()
        self._places: dict[str, Place] = {}
        self._infos: dict[str, tuple[Place, _Stamps, ProbeInfo | DamagedProbe]] = {}
        self._loaded: dict[str, tuple[Place, _Stamps, Probe]] = {}
        self._results: dict[Path, tuple[_Stamp, dict[str, Interval]]] = {}

    def listing(self) -> list[Listed]:
        """Every probe, by name: what it says of itself, or what is wrong with it.

        One that is removed while it is read is left out.
        """
        places = self._places = {} if self._folder is None else find_places(self._folder)
        for held in (self._infos, self._loaded):
            for name in [name for name in held.copy() if name not in places]:
                held.pop(name, None)
        intervals = {run: self._intervals(run) for run in {p.run for p in places.values()} if run}
        listed = []
        for name, place in places.items():
            found = self._read(name, place)
            if isinstance(found, DamagedProbe) and not os.path.lexists(place.folder):
                continue
            own = intervals[place.run].get(place.own_name) if place.run else None
            listed.append(Listed(name, found, own))
        return listed

    def info(self, name: str) -> ProbeInfo:
        """What a probe says of itself.

        Raises
        ------
        MissingProbe
        DamagedProbe
            The folder cannot be read, or holds a head whose values are not finite.
        """
        found = self._read(name, self.place(name))
        if isinstance(found, DamagedProbe):
            raise DamagedProbe(found.problem, found.fix)
        return found

    def place(self, name: str) -> Place:
        """Where a probe is, and in which run.

        Raises
        ------
        MissingProbe
        """
        place = self._places.get(name)
        if place is None or not os.path.lexists(place.folder / INFO):
            self._places = {} if self._folder is None else find_places(self._folder)
            place = self._places.get(name)
        if place is None:
            known = ", ".join(self._places) or "none yet"
            raise MissingProbe(f"There is no probe {name!r}.", f"Probes: {known}.")
        return place

    def load(self, name: str) -> Probe:
        """A probe ready to predict; loaded once, however many ask.

        Raises
        ------
        MissingProbe, DamagedProbe
        NotInstalled
            The server has no torch.
        """
        self.info(name)
        place = self.place(name)
        stamps = _stamps_of(place)
        held = self._loaded.get(name)
        if held is not None and held[:2] == (place, stamps):
            return held[2]
        with self._loading:
            held = self._loaded.get(name)
            if held is None or held[:2] != (place, stamps):
                try:
                    with needing_packages(f"Probe {name!r} cannot predict here"):
                        held = self._loaded[name] = (place, stamps, load_probe(place.folder))
                except NotInstalled:
                    raise
                except StoreError as error:
                    raise _damaged(name, place, error) from error
            return held[2]

    def _read(self, name: str, place: Place) -> ProbeInfo | DamagedProbe:
        """What a probe says of itself, or why it cannot; read again where a file changed."""
        stamps = _stamps_of(place)
        held = self._infos.get(name)
        if held is not None and held[:2] == (place, stamps):
            return held[2]
        with self._reading:
            held = self._infos.get(name)
            if held is not None and held[:2] == (place, stamps):
                return held[2]
            try:
                if place.problem is not None:
                    raise DamagedProbe(
                        f"Probe {name!r} cannot be used: {place.problem}.",
                        "Give it a folder and a name of its own.",
                    )
                info = read_probe_info(place.folder)
                read_head(place.folder, info)  # once, so that what is listed can predict
                found: ProbeInfo | DamagedProbe = info
            except DamagedProbe as error:
                found = error
            except StoreError as error:  # of a later version too
                found = _damaged(name, place, error)
                if isinstance(error, Unreachable):
                    return found  # which says nothing of the files
            self._infos[name] = (place, stamps, found)
            return found

    def _intervals(self, run: Path) -> dict[str, Interval]:
        """Bootstrap intervals of test scores by probe, where the run has them.

        None where its results cannot be read, which the log tells.
        """
        stamp = _stamp_of(run / RESULTS)
        held = self._results.get(run)
        if held is None or held[0] != stamp:
            held = self._results[run] = (stamp, _read_intervals(run) if stamp else {})
        return held[1]


def _stamps_of(place: Place) -> _Stamps:
    return _stamp_of(place.folder / INFO), _stamp_of(place.folder / WEIGHTS)


def _stamp_of(path: Path) -> _Stamp:
    try:
        status = os.stat(path)  # noqa: PTH116  # twice a probe, on the way of every list
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _read_intervals(run: Path) -> dict[str, Interval]:
    try:
        found = read_results(run).comparisons
    except StoreError as error:
        log.error("%s", error)
        return {}
    if found is None:
        return {}
    return {
        name: Interval(low, high, 1 - found.level)
        for name, (low, high) in found.intervals.items()
        if low is not None and high is not None
    }


def _damaged(name: str, place: Place, error: StoreError) -> DamagedProbe:
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
    said = error.problem.removesuffix(".")
    for folder in (str(place.folder), repr(str(place.folder))[1:-1]):
        said = said.replace(f"{folder}/", "").replace(f"{folder}", "its folder")
    if str(place.folder.parent) in said:
        said = "its folder is damaged"
    return DamagedProbe(
        f"Probe {name!r} cannot be used: {said}.",
        "Its server's log says where; train the probe again or restore it.",
    )
