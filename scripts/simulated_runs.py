"""Runs whose truth is known, for `simulate_statistics.py`: a generator in, one `Data` out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe.judging import Design, Predicted

Array = NDArray[Any]
Rng = np.random.Generator


@dataclass(frozen=True)
class Data:
    """One simulated run: two heads `a` and `b`, or more."""

    design: Design
    heads: list[Predicted]
    truth: Array


def of_quality(quality: Array, true: Array, noise: Array) -> Array:
    """Predictions of which each correlates with the truth as much as asked: (S, n)."""
    q = np.clip(quality, -0.95, 0.95)[:, None]
    predicted: Array = q * true + np.sqrt(1 - q**2) * noise
    return predicted


def half_shared(rng: Rng, shared: Array, trainings: int) -> Array:
    """Noise of trainings of one backbone: half of its variance is theirs, half the backbone's."""
    return (shared + rng.normal(size=(trainings, len(shared)))) / math.sqrt(2)


def trainings(n: int, spread: float, *, same: bool = False, plain: bool = False) -> Any:
    """Five trainings each; quality 0.5 varies between trainings with a deviation of `spread`.

    same : both sides are trainings of one backbone; plain : `b` has no seeds
    """

    def draw(rng: Rng, gain: float) -> Data:
        true = rng.normal(size=n)
        shared = rng.normal(size=(2, n))
        if same:
            shared[1] = shared[0]
        first = of_quality(rng.normal(0.5 + gain, spread, 5), true, half_shared(rng, shared[0], 5))
        count = 1 if plain else 5
        quality = np.full(1, 0.5) if plain else rng.normal(0.5, spread, 5)
        second = of_quality(quality, true, half_shared(rng, shared[1], count))
        heads = [Predicted("a", (first,)), Predicted("b", (second,), has_seeds=not plain)]
        return Data(Design.of_one_split(np.arange(n), 5 * n), heads, true)

    return draw


def slopes(n: int) -> Any:
    """Predictions are a slope times the truth and noise; slopes are 0.8 +- 0.25 over trainings."""

    def draw(rng: Rng, gain: float) -> Data:
        true, shared = rng.normal(size=n), rng.normal(size=n)
        heads = [
            Predicted(
                name,
                (rng.normal(0.8 + more, 0.25, 5)[:, None] * true + half_shared(rng, shared, 5),),
            )
            for name, more in (("a", gain), ("b", 0.0))
        ]
        return Data(Design.of_one_split(np.arange(n), 5 * n), heads, true)

    return draw


def families(sizes: Sequence[int], icc: float, quality: float) -> Any:
    """Labels and predictions of a family are alike: a share `icc` of their variance is its own."""
    group = np.repeat(np.arange(len(sizes)), sizes)

    def normal(rng: Rng) -> Array:
        mine: Array = math.sqrt(icc) * rng.normal(size=len(sizes))[group]
        return mine + math.sqrt(1 - icc) * rng.normal(size=len(group))

    def draw(rng: Rng, gain: float) -> Data:
        true = normal(rng)
        heads = [
            Predicted(
                name, (of_quality(np.array([quality + more]), true, normal(rng)[None]),), False
            )
            for name, more in (("a", gain), ("b", 0.0))
        ]
        return Data(
            Design.of_one_split(group, 5 * len(group), linked_by=("families",)), heads, true
        )

    return draw


def outputs(n: int) -> Any:
    """Three outputs of other units; one head is better at the first, the other at the last."""
    units = np.array([1.0, 30.0, 1000.0])

    def draw(rng: Rng, gain: float) -> Data:
        true = rng.normal(size=(n, 1)) + rng.normal(size=(n, 3))
        true /= math.sqrt(2)
        heads = []
        for name, more, each in (("a", gain, (0.6, 0.5, 0.4)), ("b", 0.0, (0.4, 0.5, 0.6))):
            q = np.array(each) + more
            noise = (rng.normal(size=(n, 1)) + rng.normal(size=(n, 3))) / math.sqrt(2)
            mine = (q * true + np.sqrt(1 - q**2) * noise) * units + 7 * units
            heads.append(Predicted(name, (mine[None],), has_seeds=False))
        design = Design.of_one_split(np.arange(n), 5 * n, outputs=("x", "y", "z"))
        return Data(design, heads, true * units)

    return draw


def positions(n: int, length: int) -> Any:
    """Labels along a sequence; a third of all variance is the sequence's. Some have no label."""

    def normal(rng: Rng) -> Array:
        whole: Array = math.sqrt(1 / 3) * rng.normal(size=(n, 1))
        return whole + math.sqrt(2 / 3) * rng.normal(size=(n, length))

    def draw(rng: Rng, gain: float) -> Data:
        true = normal(rng)
        heads = []
        for name, more in (("a", gain), ("b", 0.0)):
            q = 0.5 + more
            mine = q * true + math.sqrt(1 - q**2) * normal(rng)
            heads.append(Predicted(name, (mine[None],), has_seeds=False))
        labels = np.where(
            np.arange(length) < rng.integers(length // 2, length, (n, 1)), true, math.nan
        )
        return Data(Design.of_one_split(np.arange(n), 5 * n, positions=length), heads, labels)

    return draw


def classes(n: int, right: float, shares: Sequence[float]) -> Any:
    """Classes of these shares, recognised as often as asked; hard rows are hard for both heads."""
    from scipy.special import ndtri

    def draw(rng: Rng, gain: float) -> Data:
        true = rng.choice(len(shares), size=n, p=shares)
        hard = rng.normal(size=n)
        heads = []
        for name, more in (("a", gain), ("b", 0.0)):
            seen = (hard + rng.normal(size=n)) / math.sqrt(2) < ndtri(right + more)
            wrong = (true + rng.integers(1, len(shares), n)) % len(shares)
            heads.append(Predicted(name, (np.where(seen, true, wrong)[None],), has_seeds=False))
        return Data(Design.of_one_split(np.arange(n), 5 * n), heads, true)

    return draw


def shaped(n: int, shape: Callable[[Array], Array]) -> Any:
    """Labels and predictions that are not normal."""

    def draw(rng: Rng, gain: float) -> Data:
        true = rng.normal(size=n)
        heads = [
            Predicted(
                name,
                (shape(of_quality(np.array([0.5 + more]), true, rng.normal(size=(1, n)))),),
                has_seeds=False,
            )
            for name, more in (("a", gain), ("b", 0.0))
        ]
        return Data(Design.of_one_split(np.arange(n), 5 * n), heads, shape(true))

    return draw


def resplit(
    rows: int,
    splits: int,
    kind: Any,
    *,
    width: int = 40,
    heavy: bool = False,
    family: int = 1,
    unsteady: float = 0.0,
) -> Any:
    """Ridge on two sets of features, trained anew in every split: the noise of splits is real.

    The labels owe as much to one set as to the other. heavy : rows far from the mean, as in real
    features; family : rows a group, alike in features and noise; unsteady : heads have
    seeds, and each training adds noise whose deviation is up to about this times that of its
    predictions
    """

    def normal(rng: Rng, *shape: int) -> Array:
        own = rng.normal(size=(rows, *shape))
        if family == 1:
            return own
        shared = rng.normal(size=(rows // family, *shape)).repeat(family, axis=0)
        return (shared + own) / math.sqrt(2)

    def draw(rng: Rng, gain: float) -> Data:
        features = [normal(rng, width), normal(rng, width)]
        if heavy:
            far = np.abs(rng.standard_t(3, size=(rows, 1)))
            features = [each * far for each in features]
        signal = np.zeros(rows)
        for each, part in zip(features, (1 + 4 * gain, 1.0), strict=True):
            weights = rng.normal(size=width)
            signal += part * (each @ (weights / np.linalg.norm(weights)))
        labels = signal / signal.std() + math.sqrt(2) * normal(rng)
        tests, trains = [], []
        dealt = rng.permutation(rows // family)
        for at in range(splits):
            if kind == "folds":
                fold = np.array_split(dealt, splits)
                test = fold[at]
                train = np.setdiff1d(dealt, np.concatenate([test, fold[(at + 1) % splits]]))
            else:
                drawn = rng.permutation(rows // family)
                train, _, test = np.split(
                    drawn, [round(0.7 * len(drawn)), round(0.85 * len(drawn))]
                )
            spread = np.arange(family)
            tests.append((test[:, None] * family + spread).ravel())
            trains.append((train[:, None] * family + spread).ravel())
        heads = []
        for name, each in zip("ab", features, strict=True):
            mine = [
                _ridge(each, labels, train, test) for train, test in zip(trains, tests, strict=True)
            ]
            if unsteady:
                mine = [
                    p + rng.uniform(0, unsteady) * p.std() * rng.normal(size=len(p)) for p in mine
                ]
            heads.append(Predicted(name, tuple(p[None] for p in mine), has_seeds=unsteady > 0))
        used = np.unique(np.concatenate(tests))
        design = Design(
            groups=used // family,
            tests=tuple(np.searchsorted(used, test) for test in tests),
            train_rows=tuple(map(len, trains)),
            table_rows=rows,
            resplit=kind if splits > 1 else "one",
        )
        return Data(design, heads, labels[used])

    return draw


def _ridge(
    features: Array, labels: Array, train: Array, test: Array, penalty: float = 30.0
) -> Array:
    centre = features[train].mean(axis=0)
    x = features[train] - centre
    weights = np.linalg.solve(
        x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (labels[train] - labels[train].mean())
    )
    predicted: Array = (features[test] - centre) @ weights
    return predicted
