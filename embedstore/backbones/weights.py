"""Published checkpoints: where their files are, what they digest to, tensors streamed into a model.

Safetensors first; pickled files only with `weights_only=True`. Remote code never runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

from embedstore.backbones import hub
from embedstore.backbones.specs import BackboneSpec
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
        return self._digest(settings)

    def digest_of_before(self) -> str:
        """The digest that recipes of before have: it took all of the config, comments as well."""
        return self._digest(self.config)

    def _digest(self, settings: Mapping[str, Any]) -> str:
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(_sha256, self.files))
        said = json.dumps(dict(settings), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256("\n".join([said, *parts]).encode()).hexdigest()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every (published name, tensor on the CPU), one file after another.

        Raises
        ------
        BadWeights
            A file cannot be read, or is a pickle that holds more than tensors.
        """
        for path in self.files:
            with _naming(path):
                yield from _read(path)


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

    with _naming(file):
        whole = _unpickle(file)
        config = rna_fm_config(whole["args"], whole["model"])
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
    if not config_file.is_file():
        raise MissingWeights(
            f"{str(folder)!r} has no config.json.",
            "--weights takes a folder in the Hugging Face layout.",
        )
    config = _read_json(config_file)
    for name, index in zip(SINGLE_FILES, INDEX_FILES, strict=True):
        if (folder / name).is_file():
            return Checkpoint(origin, config, (folder / name,))
        if (folder / index).is_file():
            for shard in (shards := _shards(folder / index)):
                if not (folder / shard).is_file():
                    raise MissingWeights(
                        f"{shard}, named by {index}, is not there.", "Download the folder again."
                    )
            return Checkpoint(origin, config, tuple(folder / shard for shard in shards))
    raise MissingWeights(
        f"{str(folder)!r} has no weights file.",
        f"Expected {' or '.join(SINGLE_FILES)}, whole or in shards with an index.",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise BadWeights(
            f"{path.name} is not JSON: {error}.", "Download the folder again."
        ) from error
    if not isinstance(content, dict):
        raise BadWeights(f"{path.name} holds no JSON object.", "Download the folder again.")
    return content


def _shards(index: Path) -> list[str]:
    """Names of the files that an index lists, sorted."""
    listed = _read_json(index).get("weight_map")
    names = list(listed.values()) if isinstance(listed, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise BadWeights(
            f"{index.name} does not list files beside it.", "Download the folder again."
        )
    return sorted(set(names))


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
    given: dict[str, Tensor] = {}
    for published, tensor in checkpoint.tensors():
        name = rename(modern(published))
        if name is None:
            continue
        if name not in wanted:
            raise BadWeights(
                f"The weights hold {published!r}, for which this model has no place.",
                "They belong to another model: check --backbone and --weights.",
            )
        if tensor.shape != wanted[name].shape:
            raise BadWeights(
                f"{published!r} has shape {tuple(tensor.shape)}, where the config asks for "
                f"{tuple(wanted[name].shape)}.",
                "Config and weights belong to different models: download the folder again.",
            )
        if name in given:
            if not torch.equal(given[name].cpu(), tensor.to(given[name].dtype)):
                raise BadWeights(
                    f"{published!r} differs from an earlier tensor for {name!r}.",
                    "Download the folder again.",
                )
            continue
        kind = tensor.dtype if name in buffers else torch.float32 if name in exact else dtype
        given[name] = tensor.to(device=device, dtype=kind, copy=True)
    missing = sorted(set(wanted) - set(given))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadWeights(
            f"The weights lack {missing[0]!r}{more}.",
            "They belong to another model: check --backbone and --weights.",
        )
    model.load_state_dict(given, strict=True, assign=True)
    model.requires_grad_(False)


def modern(published: str) -> str:
    """Norms are called gamma and beta in old files, and where transformers 5 saves an ESM anew."""
    if published.endswith(".gamma"):
        return published.removesuffix("gamma") + "weight"
    return published.removesuffix("beta") + "bias" if published.endswith(".beta") else published


def _read(path: Path) -> Iterator[tuple[str, Tensor]]:
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                yield name, file.get_tensor(name)
    else:
        whole = _unpickle(path)
        yield from (whole["model"] if path.suffix == ".pth" else whole).items()


def _unpickle(path: Path) -> Any:
    """Tensors, plain values and an `argparse.Namespace` (RNA-FM holds one), nothing else."""
    import torch

    with torch.serialization.safe_globals([Namespace]):
        # files of before torch 1.6 are no zip files and cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into an error that names the file."""
    try:
        yield
    except BadWeights:
        raise
    except Exception as error:  # each reader has its own kinds: all mean a bad file
        raise BadWeights(
            f"{path.name} cannot be read as weights: {error}.",
            "Download it again, or convert it to safetensors.",
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
