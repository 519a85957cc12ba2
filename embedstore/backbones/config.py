"""Other people's `config.json`: a file in, the checked values that a family reads of it out.

Names that no family reads are ignored, whatever they hold. A value that is read has a type, a range
and relations to the others, so that no model is made of absurd sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from embedstore.backbones.folder import ANEW, read_small
from embedstore.documents import AnyDocument, BadDocument, Document, check, parse_object
from embedstore.errors import BadWeights

MOST_BYTES = 4 << 20
"""Largest config or index that is read; published ones have some kilobytes."""
MOST_LAYERS = 512
_MARK = b"\xef\xbb\xbf"  # of UTF-8, which some editors put before a text


def _whole(value: Any) -> Any:
    """16.0 as 16: some writers know one kind of number alone."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _off(value: Any) -> Any:
    """A null switch is off, as transformers takes it."""
    return False if value is None else value


Whole = Annotated[int, BeforeValidator(_whole)]
Switch = Annotated[bool, BeforeValidator(_off)]
TokenId = Annotated[Whole | None, Field(ge=0)]
Word = Annotated[str, Field(max_length=100, pattern="^[ -~]*$")]


class Marks(Document):
    """What tells which family a config is of; a field that is missing or null says nothing."""

    model_config = ConfigDict(extra="ignore")

    model_type: Word | None = None
    position_embedding_type: Word | None = None
    vocab_size: Annotated[Whole | None, Field(ge=0, le=2**53)] = None


class ModelConfig(Document):
    """Sizes that every family has."""

    model_config = ConfigDict(extra="ignore")

    vocab_size: Annotated[Whole, Field(ge=1, le=2**20)]
    hidden_size: Annotated[Whole, Field(ge=1, le=2**16)]
    num_hidden_layers: Annotated[Whole, Field(ge=1, le=MOST_LAYERS)]
    num_attention_heads: Annotated[Whole, Field(ge=1, le=2**12)]
    intermediate_size: Annotated[Whole, Field(ge=1, le=2**20)]
    max_position_embeddings: Annotated[Whole, Field(ge=1, le=2**24)]
    layer_norm_eps: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"its field 'num_attention_heads' is {self.num_attention_heads}, which does not "
                f"divide the hidden_size {self.hidden_size}"
            )
        return self


class EsmLayout(ModelConfig):
    """What is read of the config of an ESM; the digest of the weights takes the same names."""

    PAD: ClassVar[int] = 1
    """Id of padding; learned positions are counted from the next one."""

    position_embedding_type: Word
    emb_layer_norm_before: Switch
    token_dropout: Switch
    pad_token_id: TokenId
    mask_token_id: TokenId

    @model_validator(mode="after")
    def _ids_and_positions(self) -> Self:
        for name in ("pad_token_id", "mask_token_id"):
            number = getattr(self, name)
            if number is not None and number >= self.vocab_size:
                raise ValueError(
                    f"its field {name!r} is {number}, and the vocabulary has {self.vocab_size} "
                    "tokens"
                )
        if self.token_dropout and self.mask_token_id is None:
            raise ValueError("its field 'mask_token_id' is null, which token_dropout needs")
        if self.position_embedding_type == "rotary":
            if self.hidden_size // self.num_attention_heads % 2:
                raise ValueError(
                    f"its field 'num_attention_heads' is {self.num_attention_heads}, which makes "
                    f"heads of an odd width of the hidden_size {self.hidden_size}: rotary "
                    "positions turn pairs"
                )
        elif self.pad_token_id != self.PAD:
            raise ValueError(
                f"its field 'pad_token_id' is {self.pad_token_id}; learned positions are counted "
                f"from {self.PAD + 1}, the id after that of padding"
            )
        return self


class NtV2Layout(EsmLayout):
    """What is read of the config of the Nucleotide Transformer v2; v1 is read as any ESM."""

    add_bias_fnn: Switch


class BertLayout(ModelConfig):
    """What is read of SpliceBERT's config; the digest of the weights takes the same names."""

    hidden_act: Word
    type_vocab_size: Annotated[Whole, Field(ge=1, le=2**10)]


def require(
    config: Mapping[str, Any], model: type[ModelConfig], where: Path | str = "config.json"
) -> dict[str, Any]:
    """What a family reads of a config in one form, none of it filled in by default.

    Whole numbers become int, others float; a null switch is off, as transformers takes it, and a
    null id stays None.

    Parameters
    ----------
    where : the file, for errors

    Raises
    ------
    BadWeights
        Names the first field that is not there, of another type or out of range.
    """
    names = tuple(model.model_fields)
    missing = next((name for name in names if name not in config), None)
    if missing is not None:
        raise BadWeights(f"{where} does not say {missing!r}, and no default is safe.", ANEW)
    return _checked(model, {name: config[name] for name in names}, where).model_dump()


def marks_of(config: Mapping[str, Any], where: Path | str) -> Marks:
    """What a config says of its family.

    Raises
    ------
    BadWeights
        A field is of another type.
    """
    return _checked(Marks, config, where)


def _checked(model: type[AnyDocument], config: Mapping[str, Any], where: Path | str) -> AnyDocument:
    try:
        return check(model, config)
    except BadDocument as error:
        raise BadWeights(f"{where}: {error}.", ANEW) from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a config or an index.

    Raises
    ------
    MissingWeights
        There is no such file, or it may not be read.
    BadWeights
        It is no JSON object, too large, nested too deeply, or no regular file.
    """
    content = read_small(path, MOST_BYTES)
    try:
        # NaN and Infinity are what Python's json writes; a field that is read refuses them itself
        return parse_object(content.removeprefix(_MARK), most=MOST_BYTES, finite=False)
    except BadDocument as error:
        raise BadWeights(f"{path}: {error}.", ANEW) from None
