"""Published checkpoints: where their files are, what they digest to, tensors streamed into a model.

Safetensors first; of pickled files only tensors and plain values. Remote code never runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.backbones import hub
from embedstore.backbones.config import read_json
from embedstore.backbones.folder import ANEW, open_file, reading, stands
from embedstore.backbones.shards import check_shards, read_index
from embedstore.backbones.specs import BackboneSpec
from embedstore.backbones.tensor_file import FLOATS, StoredTensor, TensorFile, read_header
from embedstore.errors import BadWeights, MissingWeights

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Checkpoint:
    """Files of one set of weights."""

    origin: str
    """Where it came from, for provenance: a hub id with revision, or the folder's name."""
    config: dict[str, Any]
    """The checkpoint's own `config.json`."""
    files: tuple[Path, ...]
    """The files with tensors."""
    index: Path | None = None
    """What lists the files, where there are several."""

    @property
    def described_in(self) -> Path:
        """The file that the config is from."""
        return self.files[0] if self.files[0].suffix == ".pth" else self.folder / "config.json"

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.files[0].parent

    def digest(self, settings: Mapping[str, Any]) -> str:
        """SHA-256 over what is read of the config and over the tensor files, hex.

        Versions, comments and switches that no number depends on are left out, so a config that
        was saved again gives the same digest. Another format or other shards are other files.

        Parameters
        ----------
        settings : from `identify.require`
        """
        said = json.dumps(dict(settings), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256("\n".join([said, *self._parts]).encode()).hexdigest()

    @property
    def earlier_digest(self) -> str:
        """The digest of before recipe documents had a format number: of the whole config, hex."""
        return self.digest(self.config)

    @cached_property
    def _parts(self) -> list[str]:
        """SHA-256 of each file, which may be gigabytes, read once."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(_sha256, self.files))

    @cached_property
    def headers(self) -> tuple[TensorFile, ...]:
        """What each file holds, without the values.

        Raises
        ------
        BadWeights
            A file cannot be read, is a pickle that holds more than tensors, declares what is not
            in it, or is not what the index says.
        """
        headers = tuple(read_header(path) for path in self.files)
        check_shards(headers, self.index)
        return headers

    @property
    def held(self) -> dict[str, StoredTensor]:
        """Every tensor by its published name, without values."""
        return {name: each for header in self.headers for name, each in header.tensors.items()}

    def tensors(self, names: Container[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Every (published name, tensor on the CPU), one file after another.

        Parameters
        ----------
        names : only these; None: all

        Raises
        ------
        BadWeights
            As by `headers`.
        """
        for header in self.headers:
            for name in header.tensors:
                if names is None or name in names:
                    yield name, header.read(name)


def find_checkpoint(spec: BackboneSpec, weights: Path | None, *, offline: bool) -> Checkpoint:
    """The checkpoint in a folder, or the published one from the hub or its local cache.

    Parameters
    ----------
    weights : folder in the Hugging Face layout; for RNA-FM the authors' `.pth` file or its folder

    Raises
    ------
    MissingWeights
        Neither the folder nor the hub has it.
    """
    if weights is None and spec.shipped is not None:
        return read_folder(Path(__file__).parent / spec.shipped, origin="embedstore")
    if weights is None and spec.hub_id is not None:
        return _from_hub(spec, offline=offline)
    if weights is None:
        raise MissingWeights(
            f"The weights of {spec.name} are on no hub: they are {spec.source}.",
            "Download them, check their licence, and give their place with --weights.",
        )
    if spec.family == "rna-fm":
        files = [weights] if weights.is_file() else sorted(weights.glob("*.pth"))
        if len(files) > 1:
            raise MissingWeights(
                f"{str(weights)!r} holds {len(files)} .pth files.", "Give one of them."
            )
        if files:
            return read_rna_fm(files[0])
    if not weights.is_dir():
        raise MissingWeights(
            f"{str(weights)!r} is not a folder.",
            "--weights takes the folder with config.json and the weights file.",
        )
    return read_folder(weights, origin=weights.resolve().name)


def read_rna_fm(file: Path) -> Checkpoint:
    """The checkpoint in RNA-FM's `.pth` file, with a config made from what is in it.

    Raises
    ------
    BadWeights
        The file cannot be read, or is not RNA-FM's.
    """
    from embedstore.backbones.rna import rna_fm_config

    found = read_header(file)
    config = rna_fm_config(found.extra, found.tensors, file)
    return Checkpoint(file.name, config, (file,))


def read_folder(folder: Path, origin: str) -> Checkpoint:
    """The checkpoint of a folder in the Hugging Face layout.

    Raises
    ------
    MissingWeights
        There is no config.json, or no weights file of a known name.
    BadWeights
        The config or an index is not what it should be.
    """
    config_file = folder / "config.json"
    if not stands(config_file):
        raise MissingWeights(
            f"{str(folder)!r} has no config.json.",
            "--weights takes a folder in the Hugging Face layout.",
        )
    config = read_json(config_file)
    for name, listed in zip(SINGLE_FILES, INDEX_FILES, strict=True):
        if stands(folder / name):
            return Checkpoint(origin, config, (folder / name,))
        if stands(index := folder / listed):
            shards = sorted(set(read_index(index).values()))
            for shard in shards:
                if not stands(folder / shard):
                    raise MissingWeights(f"{shard}, named by {index}, is not there.", ANEW)
            return Checkpoint(origin, config, tuple(folder / each for each in shards), index)
    raise MissingWeights(
        f"{str(folder)!r} has no weights file.",
        f"Expected {' or '.join(SINGLE_FILES)}, whole or in shards with an index.",
    )


def _from_hub(spec: BackboneSpec, *, offline: bool) -> Checkpoint:
    """The published checkpoint: the cache's where it lies there whole, else the hub's.

    Where the hub must not be asked, the last `main` of the cache stands in for a pinned commit that
    is not there: other tensors give another digest, and so another recipe.
    """
    folder, why = hub.cached_folder(spec), None
    if folder is not None:
        try:
            return _of_commit(spec, folder)
        except MissingWeights as error:  # a download that was broken off
            why = error.problem.rstrip(".")
    if not (offline or hub.forbidden_by_user()):
        return _of_commit(spec, hub.download(spec))
    other = hub.last_main(spec)
    if other is None or other == folder:
        raise hub.not_cached(spec, why)
    found = _of_commit(spec, other)
    log.warning(
        "%s: commit %s is taken from the cache, which lacks the pinned %s.",
        spec.name,
        other.name,
        spec.revision,
    )
    return found


def _of_commit(spec: BackboneSpec, folder: Path) -> Checkpoint:
    return read_folder(folder, origin=f"{spec.hub_id}@{folder.name}")


def load_tensors(
    model: nn.Module,
    checkpoint: Checkpoint,
    rename: Callable[[str], str | None],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Fill a model made on the meta device, each tensor going straight to its device and dtype.

    Parameters
    ----------
    model : module whose parameters are on the meta device
    rename : published name -> the model's name, or None for a tensor the encoder has no use for
    dtype : of the linear layers; tables and norms are float32, buffers keep the file's dtype

    Raises
    ------
    BadWeights
        A tensor is missing, left over, of another shape, or given twice with other values; it is
        named.
    """
    import torch
    from torch import nn

    exact = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    parameters = dict(model.named_parameters())
    buffers = {name: b for name, b in model.named_buffers() if name in model.state_dict()}
    wanted = {**parameters, **buffers}
    shapes = {name: tuple(t.shape) for name, t in wanted.items()}
    places = _places(checkpoint, rename, shapes)
    for published, name in places.items():
        if name in parameters and checkpoint.held[published].dtype not in FLOATS:
            raise BadWeights(
                f"{checkpoint.folder}: {published!r} is of {checkpoint.held[published].dtype}, "
                "which no weights are.",
                "Give weights that were not quantised.",
            )
    given: dict[str, Tensor] = {}
    for published, tensor in checkpoint.tensors(places):
        name = places[published]
        if name in given:
            if not torch.equal(given[name].cpu(), tensor.to(given[name].dtype)):
                raise BadWeights(
                    f"{checkpoint.folder}: {published!r} differs from an earlier tensor for "
                    f"{name!r}.",
                    "Download the folder again.",
                )
            continue
        kind = tensor.dtype if name in buffers else torch.float32 if name in exact else dtype
        given[name] = tensor.to(device=device, dtype=kind, copy=True)
    model.load_state_dict(given, strict=True, assign=True)
    model.requires_grad_(False)


def _places(
    checkpoint: Checkpoint,
    rename: Callable[[str], str | None],
    wanted: Mapping[str, tuple[int, ...]],
) -> dict[str, str]:
    """The model's name of every published tensor that it has a place for.

    Parameters
    ----------
    wanted : shape of each of the model's tensors

    Raises
    ------
    BadWeights
        A tensor is missing, left over, or of another shape.
    """
    places, folder = {}, checkpoint.folder
    for published, stored in checkpoint.held.items():
        name = rename(modern(published))
        if name is None:
            continue
        if name not in wanted:
            raise BadWeights(
                f"The weights in {folder} hold {published!r}, for which this model has no place.",
                "They belong to another model: check --backbone and --weights.",
            )
        if stored.shape != wanted[name]:
            raise misshapen(folder, published, stored.shape, wanted[name])
        places[published] = name
    missing = sorted(set(wanted) - set(places.values()))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadWeights(
            f"The weights in {folder} lack {missing[0]!r}{more}.",
            "They belong to another model: check --backbone and --weights.",
        )
    return places


def misshapen(
    folder: Path, published: str, shape: tuple[int, ...], wanted: tuple[int, ...]
) -> BadWeights:
    """The error of a tensor that the config does not describe."""
    return BadWeights(
        f"{folder}: {published!r} has shape {shape}, where the config asks for {wanted}.",
        "Config and weights belong to different models: download the folder again.",
    )


def modern(published: str) -> str:
    """Norms are called gamma and beta in old files, and where transformers 5 saves an ESM anew."""
    if published.endswith(".gamma"):
        return published.removesuffix("gamma") + "weight"
    return published.removesuffix("beta") + "bias" if published.endswith(".beta") else published


def _sha256(path: Path) -> str:
    with open_file(path) as file, reading(path):
        return hashlib.file_digest(file, "sha256").hexdigest()
