"""Training that diverged: tensors, outputs and configurations in; what is not finite, and why, out.

One rule for every way of training: nothing is saved whose tensors or predictions are not finite.
A score that is undefined because all predictions are equal is no divergence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import Diverged

if TYPE_CHECKING:
    from torch import Tensor

    from probe.training import Config

_SHOWN = {
    "penalty": "penalty",
    "learning_rate": "learning rate",
    "backbone_learning_rate": "backbone learning rate",
    "batch_size": "batch size",
    "rank": "rank",
    "alpha": "alpha",
}
"""Fields of a configuration that the error names, as people write them."""

NOTHING_FINITE = "no head with finite values came of it"
"""What is said where every configuration diverged."""


def not_finite_in(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with a value that is not finite; None: all are finite."""
    for name, values in tensors.items():
        if not bool(values.isfinite().all()):
            return name
    return None


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every value of every tensor is finite."""
    return all(bool(values.isfinite().all()) for values in tensors)


def finite_rows(
    outputs: NDArray[np.floating[Any]], lengths: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Which rows of a head's outputs are finite.

    Parameters
    ----------
    outputs : shape (N, outputs), or (N, L) by token, where nan stands behind the end of a sequence
    lengths : int64, shape (N,): by token, how many outputs each sequence has; None: all

    Returns
    -------
    bool, shape (N,)
    """
    finite = np.isfinite(outputs)
    if lengths is not None:
        finite |= np.arange(outputs.shape[1]) >= lengths[:, None]
    rows: NDArray[np.bool_] = finite.all(axis=1)
    return rows


def diverged(configs: Sequence[Config], what: str) -> Diverged:
    """The error of one configuration that diverged, or of several that all did.

    Parameters
    ----------
    what : came of it, e.g. `fc.weight is not finite`
    """
    return Diverged(f"training diverged ({settings_text(configs)}): {what}.", _fix(configs[0]))


def error_of_run(results: dict[str, Any], folder: Path) -> Diverged | None:
    """What a run ends with where training diverged on some or all backbones; else None.

    Parameters
    ----------
    results : `results.json`
    folder : of the run, named where the others are kept in it
    """
    found = results.get("diverged", {})
    if not found:
        return None
    said = [f"{name}: {each['problem']}" for name, each in found.items()]
    if results["backbones"]:
        said.append(f"The other backbones are in {str(folder)!r}.")
    return Diverged(" ".join(said), " ".join(dict.fromkeys(each["fix"] for each in found.values())))


def settings_text(configs: Sequence[Config]) -> str:
    """`learning rate 1e+06, batch size 16`; of several configurations `1e+06 or 2e+06`."""
    found = [config.as_json() for config in configs]
    parts = []
    for field, said in _SHOWN.items():
        values = dict.fromkeys(each[field] for each in found if each.get(field) is not None)
        if values:
            parts.append(f"{said} {' or '.join(f'{value:g}' for value in values)}")
    return ", ".join(parts)


def _fix(config: Config) -> str:
    values = config.as_json()
    if "penalty" in values:
        return "Look for features or labels that are far too large."
    if "method" in values:
        return "Lower --head-lr or --backbone-lr."
    return "Lower --learning-rate."
