"""Where probes are: what `--probes` names in, each probe's name and folder out.

The folder may be one probe, a run of `probe grid`, a folder of probes or runs, or a sweep. Every
name stands for one folder, and no link out of what `--probes` names is followed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from embedstore.regular_files import check_within
from probe.documents import is_folder_name
from probe.saved import INFO, WEIGHTS

BETWEEN = ":"
"""Stands between the names of a run and its probe where several runs are served."""
PROBES = "probes"
"""Folder of a run that its probes are in."""


@dataclass(frozen=True)
class Place:
    """One probe."""

    folder: Path
    run: Path | None = None
    """Folder of the run that it is in."""
    problem: str | None = None
    """Why it is not even opened."""

    @property
    def own_name(self) -> str:
        """In its run."""
        return self.folder.name


def find_places(root: Path) -> dict[str, Place]:
    """Every probe below a folder, by the name that it is served under, sorted; reads no file.

    A single probe has the name of its folder, a probe of a run that of its folder in the run. Of
    a folder of runs, which a sweep is, both names stand together: `RUN:PROBE`.
    """
    found: dict[str, Place] = {}
    if _holds_probe(root):
        _add(found, Path(os.path.realpath(root)).name, Place(root))
    elif (root / PROBES).is_dir():
        _add_run(found, root, root, "")
    else:
        for folder in _folders(root):
            if _holds_probe(folder):
                _add(found, folder.name, Place(folder, problem=_leads_out(folder, root)))
            elif (folder / PROBES).is_dir():
                _add_run(found, folder, root, folder.name + BETWEEN)
    return dict(sorted(found.items()))


def _add_run(found: dict[str, Place], run: Path, root: Path, before: str) -> None:
    for folder in _folders(run / PROBES):
        problem = _leads_out(run, root) or _leads_out(folder, run)
        _add(found, before + folder.name, Place(folder, run, problem))


def _add(found: dict[str, Place], name: str, place: Place) -> None:
    if not is_folder_name(name):
        shown = name.encode("utf-8", "backslashreplace").decode()
        name = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in shown)
        place = Place(place.folder, place.run, "its folder has a name that cannot be shown")
    if name in found:
        place = Place(place.folder, place.run, "two probes would be served under this name")
    found[name] = place


def _holds_probe(folder: Path) -> bool:
    return any(os.path.lexists(folder / name) for name in (INFO, WEIGHTS))


def _folders(root: Path) -> list[Path]:
    """What may be a folder in another, without what is hidden; none where it is just gone."""
    try:
        with os.scandir(root) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if not entry.name.startswith(".") and not entry.is_file(follow_symlinks=False)
            )
    except OSError:
        return []


def _leads_out(folder: Path, root: Path) -> str | None:
    """What is wrong with a folder that lies elsewhere; of a run its `probes` too."""
    links = [each for each in (folder, folder.parent) if each != root and each.is_symlink()]
    try:
        for each in links:
            check_within(each, root)
    except OSError:
        return "its folder is a link that leads elsewhere"
    return None
