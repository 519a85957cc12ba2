"""Saved probes: a trained head and everything to use it again, as safetensors and JSON.

`read_probe_info` reads the JSON alone and never imports torch, so a server lists probes cheaply.
"""

from __future__ import annotations

import hashlib
import math
import sys
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import BadInput, NotFinite
from embedstore.loaders import JoinedRecipe
from embedstore.regular_files import check_within
from embedstore.store.files import publish_folder, write_atomically
from embedstore.store.recipe import Recipe
from probe.batches import head_outputs
from probe.divergence import diverged, finite_rows, not_finite_in
from probe.documents import read_json, read_within, write_json
from probe.objective import Objective
from probe.probe_document import ProbeInfoDocument, head_shapes
from probe.training import Config

if TYPE_CHECKING:
    from probe.bank import Head

INFO, WEIGHTS, OWN = "probe.json", "head.safetensors", "backbone"
MOST_HEADER = 1 << 20
"""Bytes of a safetensors file beside its values."""
NOT_FINITE_FIX = "Its embedding holds values that are far too large: embed it again."
_AGAIN = "Restore the folder from a copy, or train the probe again."


@dataclass(frozen=True, kw_only=True)
class ProbeInfo:
    """Everything about a probe but its weights."""

    recipe: Recipe | JoinedRecipe
    """Of the features it reads; `recipe.view` is the view, `recipe.width` the D it expects."""
    objective: Objective
    """Task, and classes or scale of the training labels."""
    head: dict[str, Any]
    """Kind and sizes, e.g. `{"kind": "textcnn", "width": 320, ...}`."""
    split_digest: str
    metrics: dict[str, dict[str, float | int | None]]
    """By part: `{"test": {"spearman": 0.61, "n": 225}, ...}`; None where undefined."""
    training: Config
    versions: dict[str, str]
    weights_digest: str
    """BLAKE2b-128 of the weights file, 32 hex digits."""
    finetuned: dict[str, Any] | None = None
    """Method, and the recipe that training started from, of a probe that comes with its own
    backbone; None: the backbone is a published one."""

    def as_json(self) -> dict[str, Any]:
        """The fields of `probe.json`."""
        scale = self.objective.scale
        own = {} if self.finetuned is None else {"finetuned": self.finetuned}
        return {
            "head": self.head,
            "task": self.objective.task.as_json(),
            "classes": list(self.objective.classes),
            "scale": None if scale is None else asdict(scale),
            "positions": self.objective.positions,
            "by_token": self.objective.by_token,
            "recipe_name": self.recipe.name,
            "recipe": self.recipe.document,
            "view": self.recipe.view,
            "split_digest": self.split_digest,
            "metrics": self.metrics,
            "training": self.training.as_json(),
            "versions": self.versions,
            "weights_digest": self.weights_digest,
            **own,
        }


@dataclass(frozen=True, eq=False)
class Answers:
    """What a probe says of N sequences."""

    predicted: NDArray[Any]
    """As `Probe.predict` gives them; of no meaning where not `finite`."""
    probabilities: NDArray[np.float64] | None
    """As `Probe.probabilities` gives them, of a classification."""
    finite: NDArray[np.bool_]
    """Shape (N,): False where the head gives values that are not finite, so no prediction."""


class Probe:
    """A trained head that was loaded; predicts from packed token embeddings."""

    def __init__(self, info: ProbeInfo, head: Head, weights: Path | None = None) -> None:
        self.info, self._head = info, head.eval()
        self.weights = weights
        """Folder of the probe's own backbone, where it was fine-tuned."""

    def predict(self, tokens: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[Any]:
        """One prediction a sequence.

        Parameters
        ----------
        tokens : float16 or float32, shape (T, D)
            Embeddings under the probe's recipe, end to end.
        lengths : int64, shape (N,)
            Tokens of each sequence.

        Returns
        -------
        Regression: float64, shape (N,), in the unit of the task; (N, Q) of several outputs, (N, P)
        per position, nan behind the end of a sequence. Classification: class names, str, shape
        (N,).

        Raises
        ------
        BadInput
            D is not the recipe's, or the lengths do not add up to T.
        NotFinite
            A prediction is not finite. See `answer` for the others.
        """
        return self._all_finite(tokens, lengths).predicted

    def answers(self, tokens: NDArray[Any], lengths: NDArray[np.int64]) -> list[Any]:
        """`predict` as plain values: of each sequence a number, a list of numbers or a class."""
        return self.plain(self.predict(tokens, lengths))

    def plain(self, predicted: NDArray[Any]) -> list[Any]:
        """Predictions as plain values: of each sequence a number, a list of numbers or a class."""
        if self.info.objective.scale is None:
            names: list[Any] = predicted.tolist()
            return names
        return self.info.objective.show(predicted)

    def probabilities(
        self, tokens: NDArray[Any], lengths: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Softmax over the classes, in the order of `info.objective.classes`.

        Returns
        -------
        float64, shape (N, C)

        Raises
        ------
        BadInput
            As in `predict`, or the probe is a regression.
        NotFinite
            As in `predict`.
        """
        if self.info.objective.scale is not None:
            raise BadInput("A regression has no class probabilities.", "Ask for predictions.")
        found = self._all_finite(tokens, lengths).probabilities
        assert found is not None, "of a classification"
        return found

    def answer(self, tokens: NDArray[Any], lengths: NDArray[np.int64]) -> Answers:
        """Predictions for many sequences, of which one that is not finite fails no other.

        Parameters
        ----------
        tokens, lengths : as in `predict`

        Raises
        ------
        BadInput
            As in `predict`.
        """
        outputs, objective = self._outputs(tokens, lengths), self.info.objective
        finite = finite_rows(outputs, np.asarray(lengths) if objective.by_token else None)
        if objective.scale is not None:
            return Answers(objective.decode(outputs), None, finite)
        outputs = np.where(finite[:, None], outputs, 0).astype(np.float64)
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        predicted = np.array(objective.classes)[outputs.argmax(axis=1)]
        return Answers(predicted, shifted / shifted.sum(axis=1, keepdims=True), finite)

    def _all_finite(self, tokens: NDArray[Any], lengths: NDArray[np.int64]) -> Answers:
        found = self.answer(tokens, lengths)
        if not found.finite.all():
            row = int(found.finite.argmin())
            raise NotFinite(
                f"The prediction for sequence {row + 1} of {len(found.finite)} is not finite.",
                NOT_FINITE_FIX,
            )
        return found

    def _outputs(self, tokens: NDArray[Any], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        width = self.info.recipe.width
        if tokens.ndim != 2 or tokens.shape[1] != width:
            raise BadInput(
                f"The tokens have shape {tokens.shape}; this probe reads (T, {width}).",
                f"Give embeddings of {self.info.recipe.name}.",
            )
        lengths = np.asarray(lengths, np.int64)
        if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != len(tokens):
            raise BadInput(
                f"The lengths add up to {lengths.sum()}, and there are {len(tokens)} tokens.",
                "Give the number of tokens of each sequence.",
            )
        return head_outputs(self._head, tokens, np.cumsum(lengths) - lengths, lengths)


def save_probe(
    folder: Path,
    head: Head,
    *,
    recipe: Recipe | JoinedRecipe,
    objective: Objective,
    split_digest: str,
    metrics: dict[str, dict[str, float | int | None]],
    training: Config,
    finetuned: dict[str, Any] | None = None,
    folders: Sequence[Path] = (),
) -> None:
    """Publish a probe as a new folder, at once.

    Parameters
    ----------
    finetuned : as in `ProbeInfo`
    folders : of the probe's own backbone; they move into its folder under their names

    Raises
    ------
    Diverged
        A tensor of the head is not finite; nothing is written.
    BadInput
        The folder exists and is not empty.
    """
    from safetensors.torch import save

    bad = not_finite_in(head.state_dict())
    if bad is not None:
        raise diverged([training], f"{bad} of the head is not finite")
    weights = save({name: value.cpu().contiguous() for name, value in head.state_dict().items()})
    info = ProbeInfo(
        recipe=recipe,
        objective=objective,
        head={"kind": head.kind, **head.sizes},
        split_digest=split_digest,
        metrics=metrics,
        training=training,
        versions=versions(),
        weights_digest=_digest(weights),
        finetuned=finetuned,
    )
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.draft")
    write_atomically(draft / WEIGHTS, weights)
    write_json(draft / INFO, ProbeInfoDocument, info.as_json())
    for each in folders:
        each.rename(draft / each.name)
    if not publish_folder(draft, folder, dict.fromkeys((WEIGHTS, INFO))):
        raise BadInput(f"{str(folder)!r} exists.", "Choose another folder for the probe.")


def read_probe_info(folder: Path) -> ProbeInfo:
    """What `probe.json` says, without its weights.

    Raises
    ------
    BadInput
        The folder holds no probe, or a damaged one.
    NewerFormat
        A later version wrote it.
    """
    held = read_json(folder / INFO, ProbeInfoDocument, within=folder)
    values = held.values()
    return ProbeInfo(
        recipe=held.read_recipe(),
        objective=held.objective(),
        head=values["head"],
        split_digest=held.split_digest,
        metrics=values["metrics"],
        training=held.training.config(),
        versions=held.versions,
        weights_digest=held.weights_digest,
        finetuned=values.get("finetuned"),
    )


def load_probe(folder: Path) -> Probe:
    """A probe ready to predict; its predictions are those of the head that was saved, bit for bit.

    Raises
    ------
    BadInput
        The folder holds no probe, or a damaged one.
    NotFinite
        Its training diverged: a value of the head is not finite.
    NewerFormat
        A later version wrote it.
    """
    info = read_probe_info(folder)
    arrays = read_head(folder, info)
    own = None if info.finetuned is None else _own_backbone(folder)
    import torch

    from probe.heads import HEADS

    sizes = {name: value for name, value in info.head.items() if name != "kind"}
    with torch.device("meta"):  # no values are drawn only to be replaced
        head = HEADS[info.head["kind"]](**sizes)
    tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
    head.load_state_dict(tensors, assign=True)
    return Probe(info, head.requires_grad_(False), own)


def _own_backbone(folder: Path) -> Path:
    """Folder of the backbone that a fine-tuned probe comes with."""
    own = folder / OWN
    try:
        check_within(own, folder)
    except OSError as error:
        raise BadInput(f"{str(own)!r} cannot be read: {error.strerror}.", _AGAIN) from None
    return own


def read_head(folder: Path, info: ProbeInfo) -> dict[str, NDArray[np.float32]]:
    """The tensors of a probe's head by name, as arrays of numpy; torch is not needed.

    Raises
    ------
    BadInput
        The file is missing or damaged, or its tensors are not those of the head in `probe.json`.
    NotFinite
        A tensor holds a value that is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / WEIGHTS
    shapes = head_shapes(info.head)
    most = 4 * sum(map(math.prod, shapes.values())) + MOST_HEADER
    try:
        weights = read_within(path, most, folder)
    except FileNotFoundError:
        raise BadInput(f"{str(path)!r} is missing.", _AGAIN) from None
    if _digest(weights) != info.weights_digest:
        raise BadInput(f"{str(path)!r} does not match the digest in {INFO}.", _AGAIN)
    try:
        # copies: in the file's buffer values lie unaligned, and the last digits depend on that
        arrays = {name: values.copy() for name, values in load(weights).items()}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise BadInput(f"{str(path)!r} is damaged: {said}.", _AGAIN) from None
    for name in (*shapes, *arrays):
        held = arrays.get(name)
        found = None if held is None else (held.dtype.name, held.shape)
        wanted = ("float32", shapes[name]) if name in shapes else None
        if found != wanted:
            raise BadInput(
                f"{str(path)!r} does not fit the sizes in {INFO}: {name} is {_shown(found)}, and "
                f"should be {_shown(wanted)}.",
                _AGAIN,
            )
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise NotFinite(
                f"{str(path)!r} holds a head of no use: {name} is not finite, so its training "
                "diverged.",
                "Train the probe again with a lower learning rate.",
            )
    return arrays


def _shown(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    """dtype and shape, in one short phrase."""
    return "absent" if tensor is None else f"{tensor[0]} of shape {tensor[1]}"


def versions() -> dict[str, str]:
    """Versions that numbers may depend on."""
    import torch

    from embedstore import __version__

    return {
        "embedstore": __version__,
        "numpy": np.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
    }


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
