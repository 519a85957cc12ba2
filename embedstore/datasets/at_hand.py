"""Files of a data set on this machine: folders in, the path and form of each part out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from embedstore.datasets.entry import DataSet, Form, Part

VARIABLE = "EMBEDSTORE_DATA"
"""Environment variable that names a folder of data sets."""


def data_folder() -> Path | None:
    """The folder that the environment names, or None."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def find_part(entry: DataSet, part: Part, folders: Sequence[Path]) -> tuple[Path, Form] | None:
    """The first file that has a name of the part, in the folders or the data set's folder below.

    Its content is not looked at.
    """
    for folder in folders:
        for place in (folder, folder / entry.folder) if entry.folder else (folder,):
            for form in part.forms:
                for name in form.names:
                    if (place / name).is_file():
                        return place / name, form
    return None


def is_at_hand(entry: DataSet, folders: Sequence[Path]) -> bool:
    """Whether every part has a file in the folders; its content is not looked at."""
    return all(find_part(entry, part, folders) for part in entry.parts)
