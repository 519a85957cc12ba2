"""The recipe: everything that changes the numbers, its document, and the folder name it digests to.

`recipe.json` is canonical JSON: the fields below and the format number of the document. The folder
is named after the digest of the fields alone, so a new format number renames nothing. A field that
is added later is one line, `name: type = added_in(FORMAT, VALUE)`, where VALUE is what every recipe
had before: it is written, and so digested, only where a recipe has another value. Documents of
before say nothing of it, mean VALUE, and keep their names.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import MISSING, dataclass, field, fields
from functools import cache, cached_property
from typing import Annotated, Any, Self, get_type_hints

from pydantic import AfterValidator, Field, create_model

from embedstore.documents import Document, parse, parse_object
from embedstore.dogma import VIEWS
from embedstore.errors import DamagedSegment, NewerFormat

IMPORTED = "import:"
"""Begins the digest of what was made elsewhere and brought in by `embedstore import`."""
FORMAT = "format"
"""Key of the format number in a document. Documents of before the first number have none."""
FIRST_FORMAT = 1
FIRST_FIELDS = frozenset(
    {"backbone", "view", "width", "weights", "layer", "long", "compute_dtype", "store_dtype"}
)
"""Fields that every document has written, whatever their values."""
RESTORE = (
    "Restore the file from a copy, or run `embedstore repair`, which takes it from a segment; the "
    "folder holds the embeddings and must stay."
)


MOST_BYTES = 64 << 10
"""Largest `recipe.json`."""
RECIPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}-[0-9a-f]{10}")
"""Folder name of a recipe: a backbone and ten hex digits."""


def _known_reading(long: str) -> str:
    """Check that windows leave a step."""
    policy, *numbers = long.split(":")
    if policy == "window" and int(numbers[1]) >= int(numbers[0]):
        raise ValueError("its windows overlap by all they have")
    return long


BackboneName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""Begins a folder's name, so it is a safe part of one."""
RecipeName = Annotated[str, Field(pattern=rf"^{RECIPE_NAME.pattern}$")]
View = Annotated[str, Field(pattern=rf"^({'|'.join(VIEWS)})$")]
Width = Annotated[int, Field(ge=1, le=2**20)]
WeightsDigest = Annotated[str, Field(pattern=r"^(import:)?sha256:[0-9a-f]{1,64}$")]
Layer = Annotated[int, Field(ge=-1000, le=1000)]
LongPolicy = Annotated[
    str,
    Field(pattern=r"^(whole|truncate:[1-9][0-9]{0,8}|window:[1-9][0-9]{0,8}:[0-9]{1,9})$"),
    AfterValidator(_known_reading),
]
ComputeDtype = Annotated[str, Field(pattern=r"^(float32|bfloat16|float16|unknown)$")]
StoredDtype = Annotated[str, Field(pattern=r"^(float16|float32)$")]


def added_in(number: int, before: Any) -> Any:
    """A field of a recipe that documents have from a format number on.

    Parameters
    ----------
    before : the value of all recipes that were made before the field existed
    """
    return field(default=before, metadata={FORMAT: number})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What gave the embeddings. Device, batch size and attention kernel are not in it."""

    backbone: BackboneName
    """Short name."""
    view: View
    """`mrna`, `dna`, `protein` or `cds`: the string that was read."""
    width: Width
    """D."""
    weights: WeightsDigest | None
    """`sha256:` digest of config and tensors; None for backbones without weights."""
    layer: Layer = -1
    """Index into the hidden states."""
    long: LongPolicy = "whole"
    """`whole`: every stored sequence was read whole; `truncate:N`: its first N tokens;
    `window:N:M`: in windows of N tokens that share at least M."""
    compute_dtype: ComputeDtype = "float32"
    store_dtype: StoredDtype = "float16"
    """dtype of `tokens`: `float16` or `float32`."""

    @classmethod
    def newest_format(cls) -> int:
        """The latest format number of a document that this version reads."""
        return max(int(each.metadata.get(FORMAT, FIRST_FORMAT)) for each in fields(cls))

    @cached_property
    def name(self) -> str:
        """Folder name: backbone and ten hex digits of the digest, e.g. `esm2-8m-3f9c2a1b7d`."""
        return name_of(self.document)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The document as it was read, or with the lowest format number that can tell it."""
        told: dict[str, Any] = {}
        number = FIRST_FORMAT
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in FIRST_FIELDS or value != each.default:
                told[each.name] = value
                number = max(number, each.metadata.get(FORMAT, FIRST_FORMAT))
        return {FORMAT: number, **told}

    def canonical(self) -> bytes:
        """The document as canonical JSON: sorted keys, no spaces, UTF-8."""
        return _canonical(self.document)

    def as_json(self) -> dict[str, Any]:
        """The fields of the document, which is what its name is the digest of."""
        return {key: value for key, value in self.document.items() if key != FORMAT}

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """The recipe that a document tells, whatever its name.

        Raises
        ------
        NewerFormat
            A later version wrote it.
        ValueError
            It is no recipe: a field is missing, unknown, or of another type.
        """
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")
        number = document.get(FORMAT, FIRST_FORMAT)
        if type(number) is not int or number < FIRST_FORMAT:
            raise ValueError(f"its format number is {number!r}")
        if number > cls.newest_format():
            raise NewerFormat(
                f"The recipe of {document.get('backbone')!r} has format {number}; this version "
                f"reads {cls.newest_format()}.",
                "Install a newer embedstore.",
            )
        values = {key: value for key, value in document.items() if key != FORMAT}
        unknown = sorted(values.keys() - {each.name for each in fields(cls)})
        if unknown:
            raise ValueError(f"its field {unknown[0][:60]!r} is unknown to format {number}")
        checked = parse(_model_of(cls), _canonical(values))  # type: ignore[arg-type]
        values = {name: getattr(checked, name) for name in values}
        recipe = cls(**values)
        recipe.__dict__["document"] = document  # the name is that of the document as it is
        return recipe

    @classmethod
    def parse(cls, text: bytes, folder: str) -> Self:
        """The recipe in `recipe.json`.

        Raises
        ------
        DamagedSegment
            The file is no recipe, or not the one its folder is named after.
        NewerFormat
            A later version wrote it.
        """
        path = f"recipes/{folder}/recipe.json"
        try:
            recipe = cls.from_json(parse_object(text, most=MOST_BYTES))
        except NewerFormat as error:
            raise NewerFormat(f"{path} is of a later version. {error.problem}", error.fix) from None
        except ValueError as error:
            raise DamagedSegment(f"{path} is damaged: {error}.", RESTORE) from error
        if recipe.name != folder:
            raise DamagedSegment(f"{path} describes {recipe.name}.", RESTORE)
        return recipe


def name_of(document: dict[str, Any]) -> str:
    """Folder name of a document, from the fields that it has itself; the format number is none."""
    told = _canonical({key: value for key, value in document.items() if key != FORMAT})
    return f"{document['backbone']}-{hashlib.blake2b(told, digest_size=5).hexdigest()}"


def _canonical(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


@cache
def _model_of(cls: Any) -> type[Document]:
    """The fields of a recipe as a strict model: their types are those of the dataclass."""
    types = get_type_hints(cls, include_extras=True)
    definitions: dict[str, Any] = {
        each.name: (types[each.name], ... if each.default is MISSING else each.default)
        for each in fields(cls)
    }
    return create_model(cls.__name__, __base__=Document, **definitions)
