"""Linear heads on pooled features: means and targets in, a fitted head of each penalty out.

Ridge regression (Hoerl and Kennard 1970) and multinomial logistic regression, both of
scikit-learn, on means over tokens that are standardised on the training rows.

Shape letters: K inputs, N rows, D width, Q outputs, C classes.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import NotFinite
from embedstore.loaders import Features, FeatureSet
from embedstore.loaders.features import number_inputs
from probe.divergence import all_finite
from probe.objective import Objective
from probe.stream import Trained, predict_rows
from probe.training import Examples, HeadKind, LinearConfig

if TYPE_CHECKING:
    from embedstore.loaders import EmbeddingReader
    from probe.bank import Head

PENALTIES: dict[str, tuple[float, ...]] = {
    "ridge": tuple(10.0**power for power in range(-3, 5)),
    "logistic": tuple(10.0**power for power in range(-5, 3)),
}
"""Of half the squared weights beside half the mean squared error of standardised targets, or
beside the mean cross entropy."""
ITERATIONS = 2_000
"""Of L-BFGS, at most."""
_NEVER = -1e4  # output of a class without training rows

logger = logging.getLogger(__name__)


def load_means(reader: EmbeddingReader, keys: Sequence[str]) -> Features:
    """The stored means of many keys, each as a sequence of one token; no token is read.

    Raises
    ------
    MissingEmbedding
        A key was never written.
    """
    distinct, rows = number_inputs(keys)
    return features_of_means(reader.means(distinct), rows)


def features_of_means(means: NDArray[np.float32], rows: NDArray[np.int64]) -> Features:
    """Means, shape (K, D), as sequences of one token; `rows` says which of them each row has."""
    count = len(means)
    return Features(means, np.arange(count), np.ones(count, np.int64), rows)


def penalties(kind: HeadKind) -> list[LinearConfig]:
    """What is tried for a linear head, in the order in which ties are settled."""
    return [LinearConfig(penalty=penalty) for penalty in PENALTIES[kind]]


def fit_heads(
    features: FeatureSet,
    train: Examples,
    validation: Examples,
    objective: Objective,
    configs: Sequence[LinearConfig],
    kind: HeadKind,
) -> Iterator[Trained]:
    """Fit a head with each penalty on the training rows, and score it on the validation rows.

    Features that are not finite, and a fit that ends in such values, give a head that `diverged`.

    Parameters
    ----------
    features : best of one token each, as `load_means` gives them
    """
    seen = features.pooled(train.rows).astype(np.float64)
    with np.errstate(invalid="ignore"):  # features that are not finite are found below
        centre, spread = seen.mean(axis=0), seen.std(axis=0)
        # what varies by rounding alone says nothing, and must not be blown up
        constant = spread <= 1e-6 * np.abs(centre)
        spread[constant] = 1
        standard = (seen - centre) / spread
    standard[:, constant] = 0
    usable = bool(np.isfinite(seen).all())
    values = objective.training_values(train.targets)
    for config in configs:
        began = time.perf_counter()
        if not usable:  # scikit-learn takes no such features
            weights = np.full((objective.outputs, seen.shape[1]), np.nan)
            biases = np.full(objective.outputs, np.nan)
        elif kind == "ridge":
            weights, biases = _fit_ridge(standard, values, config.penalty)
        else:
            weights, biases = _fit_logistic(standard, values, config.penalty, objective)
        head = _head(kind, centre, spread, weights, biases)
        score, finite = math.nan, all_finite(head.state_dict().values())
        try:
            predicted = predict_rows(head, features, validation.rows, objective)
        except NotFinite:
            finite = False
        else:
            score = objective.score(predicted, validation.targets)
        yield Trained(
            config=config,
            head=head,
            best_epoch=0,
            validation_score=score if finite else math.nan,
            curve=(),
            seconds=time.perf_counter() - began,
            diverged=not finite,
        )


def _fit_ridge(
    standard: NDArray[np.float64], values: NDArray[np.float32], penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (Q, D) and biases (Q,); an output is fitted on the rows that have it."""
    from sklearn.linear_model import Ridge

    there = ~np.isnan(values)
    if there.all():
        fitted = Ridge(alpha=penalty * len(values)).fit(standard, values.astype(np.float64))
        return np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
    weights = np.zeros((values.shape[1], standard.shape[1]))
    biases = np.zeros(values.shape[1])
    for at, rows in enumerate(there.T):
        if rows.any():
            fitted = Ridge(alpha=penalty * int(rows.sum()))
            fitted.fit(standard[rows], values[rows, at].astype(np.float64))
            weights[at], biases[at] = fitted.coef_, fitted.intercept_
    return weights, biases


def _fit_logistic(
    standard: NDArray[np.float64],
    numbers: NDArray[np.int64],
    penalty: float,
    objective: Objective,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (C, D) and biases (C,)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=1 / (penalty * len(numbers)),
        class_weight="balanced" if objective.task.balance else None,
        max_iter=ITERATIONS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = model.fit(standard, numbers)
    if fitted.n_iter_.max() >= ITERATIONS:
        logger.warning("penalty %g: not converged after %d iterations", penalty, ITERATIONS)
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(coefficients) == 1:  # of two classes scikit-learn keeps the second's
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([[0.0], intercepts])
    weights = np.zeros((objective.outputs, standard.shape[1]))
    biases = np.full(objective.outputs, _NEVER)
    weights[fitted.classes_], biases[fitted.classes_] = coefficients, intercepts
    return weights, biases


def _head(kind: HeadKind, *values: NDArray[Any]) -> Head:
    """The head that holds centre, spread, weights and biases."""
    import torch

    from probe.heads import HEADS
    from probe.linear_heads import LinearHead

    centre, spread, weights, biases = (torch.from_numpy(each).float() for each in values)
    make = HEADS[kind]
    assert issubclass(make, LinearHead)
    with torch.device("meta"):  # no values are drawn only to be replaced
        head = make(width=weights.shape[1], outputs=weights.shape[0])
    state = {"centre": centre, "spread": spread, "fc.weight": weights, "fc.bias": biases}
    head.load_state_dict(state, assign=True)
    return head.eval()
