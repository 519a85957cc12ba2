"""Indexes of weights in several files: which file holds which tensor, checked against the files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from embedstore.backbones.config import read_json
from embedstore.backbones.folder import ANEW
from embedstore.backbones.tensor_file import MOST_NAME, TensorFile
from embedstore.documents import BadDocument, Document, check
from embedstore.errors import BadWeights

MOST_SHARDS = 10_000
_BESIDE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.(?:safetensors|bin)")


def _beside(name: str) -> str:
    """Nothing is joined to a folder that could lead out of it."""
    if not _BESIDE.fullmatch(name):
        raise ValueError("it is no name of a weights file beside the index")
    return name


class Index(Document):
    """What is read of `model.safetensors.index.json` and its like."""

    model_config = ConfigDict(extra="ignore")

    weight_map: Annotated[
        dict[
            Annotated[str, Field(min_length=1, max_length=MOST_NAME)],
            Annotated[str, AfterValidator(_beside)],
        ],
        Field(min_length=1),
    ]


def read_index(path: Path) -> dict[str, str]:
    """Name of the file that holds each tensor.

    Raises
    ------
    BadWeights
        It is no index, or a file that it lists does not lie beside it.
    """
    document = read_json(path)
    try:
        listed = check(Index, document).weight_map
    except BadDocument as error:
        raise BadWeights(f"{path} does not list files beside it: {error}.", ANEW) from None
    kind = path.name.removesuffix(".index.json").rpartition(".")[2]
    other = next((name for name in listed.values() if not name.endswith(f".{kind}")), None)
    if other is not None:
        raise BadWeights(
            f"{path} does not list files beside it: {other!r} is no .{kind} file.", ANEW
        )
    if len(set(listed.values())) > MOST_SHARDS:
        raise BadWeights(f"{path} lists more than {MOST_SHARDS} files.", ANEW)
    return listed


def check_shards(headers: Sequence[TensorFile], index: Path | None) -> None:
    """Check that every tensor stands in one file, and in the one that the index names.

    Raises
    ------
    BadWeights
        Names the tensor and the files.
    """
    of: dict[str, Path] = {}
    for header in headers:
        for name in header.tensors:
            if name in of:
                raise BadWeights(
                    f"{header.path} holds tensor {name!r}, which {of[name].name} holds too.", ANEW
                )
            of[name] = header.path
    if index is None:
        return
    for name, file in read_index(index).items():
        if name not in of or of[name].name != file:
            raise BadWeights(
                f"{index} says that {file} holds tensor {name[:100]!r}, and it does not.", ANEW
            )
