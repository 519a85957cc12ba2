"""Type I error, coverage and power of `probe.judging` on data whose truth is known.

Each line of the table is a design. Data sets are drawn of which two heads are equally good (the
null) or differ by a known amount, and each is judged as a run is. Printed are the share of null
data sets in which the 95 % interval of the difference excludes 0 (type I error), the share of
scores whose interval holds the truth (coverage), the share of real differences found (power), and
how often the verdict is withheld. Beside it stands another method on the same data: of one split
what was done before (rows, and seeds with replacement; percentiles), of folds and repeats Nadeau
and Bengio's corrected test.

Prints one JSON line, then a Markdown table. The same seed gives the same numbers.

Example: OMP_NUM_THREADS=1 python scripts/simulate_statistics.py > statistics.md
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from simulated_runs import (
    Data,
    classes,
    families,
    half_shared,
    of_quality,
    outputs,
    positions,
    resplit,
    shaped,
    slopes,
    trainings,
)

from probe.judging import Design, Judged, Predicted, find_smallest
from probe.judging.interval import quantile
from probe.judging.resample import judge
from probe.judging.rescored import Rescored, rescore
from probe.judging.variance import FEWEST_SPLITS
from probe.metrics import Metric

Rng = np.random.Generator
SEEDS = (1, 2, 3, 5)
SIZES = (70, 160, 225, 400)
GAIN = 0.1
"""True difference of quality where power is measured."""


@dataclass(frozen=True)
class Scenario:
    """A design and how its data come about."""

    name: str
    draw: Callable[[Rng, float], Data]
    """The second argument: by how much `a` is better."""
    expected: float | None = None
    """The true score under the null; None: the mean over all data sets."""
    metric: Metric = "spearman"
    seeds: Sequence[int] = (1,)
    """Trainings judged: the first so many of those drawn."""
    power: bool = False


@dataclass
class Tally:
    """What was found over data sets."""

    errors: list[bool] = field(default_factory=list)
    other: list[bool] = field(default_factory=list)
    withheld: list[bool] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ends: list[tuple[float, float]] = field(default_factory=list)
    found: list[bool] = field(default_factory=list)
    other_found: list[bool] = field(default_factory=list)
    claim: str = ""


# Judging


def first_trainings(
    data: Data, rescored: list[Rescored], count: int
) -> tuple[list[Predicted], list[Rescored]]:
    """The same data had only `count` trainings been made."""
    heads = [
        Predicted(head.name, tuple(each[:count] for each in head.splits), head.has_seeds)
        for head in data.heads
    ]
    return heads, [Rescored(each.point[:, :count], each.drawn[:, :count]) for each in rescored]


def excludes(low: float, high: float, value: float = 0.0) -> bool:
    """Whether an interval does not hold a value; one that is undefined excludes nothing."""
    return low > value or high < value


def other_method(rng: Rng, data: Data, rescored: list[Rescored], metric: Metric) -> bool:
    """Whether the other method calls the two different, at 5 %."""
    first, second = rescored
    splits = len(first.point)
    if splits >= FEWEST_SPLITS:
        differences = (first.point - second.point).mean(axis=1)
        overlap = float(np.mean([len(test) for test in data.design.tests])) / (
            data.design.train_share * data.design.table_rows
        )
        error = math.sqrt((1 / splits + overlap) * differences.var(ddof=1))
        return bool(abs(differences.mean()) > quantile(0.975, splits - 1) * error)
    if data.design.group_count < len(data.design.groups):  # rows were drawn one by one
        rows = len(data.design.groups)
        single = Design.of_one_split(np.arange(rows), 5 * rows)
        first, second = rescore(
            single, data.heads, data.truth, metric, resamples=first.drawn.shape[2], seed=1
        )
    drawn = []
    for each in (first, second):
        seeds, resamples = each.drawn.shape[1:]
        picked = rng.integers(seeds, size=(seeds, resamples))
        drawn.append(np.take_along_axis(each.drawn[0], picked, axis=0).mean(axis=0))
    low, high = np.nanquantile(drawn[0] - drawn[1], [0.025, 0.975])
    return excludes(low, high)


def run(scenario: Scenario, sets: int, resamples: int, seed: int) -> Iterator[dict[str, Any]]:
    """Simulate a scenario: a line of the table for each number of trainings."""
    tallies = {count: Tally() for count in scenario.seeds}
    gains = (0.0, GAIN) if scenario.power else (0.0,)
    for gain in gains:
        for at in range(sets if gain == 0 else max(20, sets // 3)):
            rng = np.random.default_rng([seed, at, int(gain > 0)])
            data = scenario.draw(rng, gain)
            everything = rescore(
                data.design, data.heads, data.truth, scenario.metric, resamples=resamples, seed=at
            )
            for count, tally in tallies.items():
                heads, rescored = first_trainings(data, everything, count)
                judged = judge(data.design, heads, rescored, data.truth, scenario.metric)
                (pair,) = judged.pairs
                differs = excludes(pair.interval.low, pair.interval.high)
                others = other_method(rng, data, rescored, scenario.metric)
                if gain:
                    tally.found.append(differs and pair.verdict != "withheld")
                    tally.other_found.append(others)
                    continue
                tally.other.append(others)
                tally.errors.append(differs)
                tally.withheld.append(pair.verdict == "withheld")
                tally.claim = f"{pair.claim}, {pair.scope}"
                tally.scores.append(judged.scores[0].score)
                tally.ends.append((judged.scores[0].interval.low, judged.scores[0].interval.high))
    for count, tally in tallies.items():
        truth = float(np.mean(tally.scores)) if scenario.expected is None else scenario.expected
        missed = [excludes(*ends, truth) for ends in tally.ends]
        yield {
            "design": scenario.name,
            "trainings": count,
            "claim": tally.claim,
            "data_sets": sets,
            "type_1": _percent(tally.errors),
            "other_type_1": _percent(tally.other),
            "coverage": round(100 - _percent(missed), 1),
            "power": _percent(tally.found) if tally.found else None,
            "other_power": _percent(tally.other_found) if tally.found else None,
            "withheld": _percent(tally.withheld),
        }


def _percent(found: Sequence[bool]) -> float:
    return round(100 * float(np.mean(found)), 1)


def smallest(n: int, count: int, sets: int, resamples: int, seed: int) -> dict[str, Any]:
    """True scores 0.30, 0.40, 0.45 and 0.50, small to large: how often each is named.

    With a margin of 0.05 the third is exactly at the margin, and may not be named.
    """
    named: dict[str | None, int] = {}
    before = 0
    for at in range(sets):
        rng = np.random.default_rng([seed, n, count, at])
        true = rng.normal(size=n)
        # the qualities whose rank correlations are these
        aims = 2 * np.sin(math.pi / 6 * np.array([0.30, 0.40, 0.45, 0.50]))
        spread = 0.03 if count > 1 else 0.0
        heads = [
            Predicted(
                f"{size}M",
                (
                    of_quality(
                        rng.normal(aim, spread, count),
                        true,
                        half_shared(rng, rng.normal(size=n), count),
                    ),
                ),
            )
            for size, aim in zip((0, 8, 35, 150), aims, strict=True)
        ]
        design = Design.of_one_split(np.arange(n), 5 * n)
        rescored = rescore(design, heads, true, "spearman", resamples=resamples, seed=at)
        judged: Judged = judge(design, heads, rescored, true, "spearman")
        sizes = {"0M": 0.0, "8M": 8.0, "35M": 35.0, "150M": 150.0}
        name = find_smallest(judged, sizes).name
        named[name] = named.get(name, 0) + 1
        best = max(judged.scores, key=lambda each: each.score).name
        before += best != "0M" and all(
            pair.p_holm >= 0.05
            for pair in judged.pairs
            if {pair.first, pair.second} == {"0M", best}
        )
    share = {name or "none": round(100 * times / sets, 1) for name, times in named.items()}
    return {
        "design": f"smallest, n = {n}",
        "trainings": count,
        "data_sets": sets,
        "before_names_0M": round(100 * before / sets, 1),
        "named_wrongly": round(sum(share.get(name, 0.0) for name in ("0M", "8M", "35M")), 1),
        "named_150M": share.get("150M", 0.0),
        "cannot_say": share.get("none", 0.0),
    }


# What is simulated

SHORT = (
    "two trainings of one backbone, sd 0.06, n = 160",
    "one head each, n = 160",
    "20 families of 8, r = 0",
    "6 families of 26",
    "3 outputs, n = 70",
    "5 repeats, 470 rows",
    "accuracy 0.8, n = 160",
)
"""Quick enough for a test."""
UNEQUAL = (30, 20, 15, 12, 10, 8, 8, 6, 6, 5, 5, 4, 4, 3, 3, 3, 2, 2, 2, *[1] * 12)


def rank_correlation(quality: float) -> float:
    """Spearman's of a bivariate normal with this correlation (Pearson 1907)."""
    return 6 / math.pi * math.asin(quality / 2)


def scenarios() -> list[Scenario]:
    """Every line of the table but those of the smallest backbone."""
    return [
        *(
            Scenario(
                f"two trainings of one backbone, sd 0.06, n = {n}",
                trainings(n, 0.06, same=True),
                seeds=SEEDS,
                power=True,
            )
            for n in SIZES
        ),
        Scenario("two backbones, sd 0.06, n = 160", trainings(160, 0.06), seeds=SEEDS),
        *(Scenario(f"slopes 0.8 +- 0.25, n = {n}", slopes(n), seeds=SEEDS) for n in (160, 400)),
        Scenario(
            "with seeds against none, sd 0.06, n = 225",
            trainings(225, 0.06, plain=True),
            seeds=SEEDS,
        ),
        *(
            Scenario(
                f"one head each, n = {n}",
                trainings(n, 0.0, plain=True),
                rank_correlation(0.5),
                power=True,
            )
            for n in SIZES
        ),
        Scenario("20 families of 8, r = 0", families([8] * 20, 0.86, 0), 0.0),
        Scenario("40 families of 4, r = 0", families([4] * 40, 0.5, 0), 0.0),
        Scenario("16 families of 10, r = 0", families([10] * 16, 0.45, 0), 0.0),
        Scenario("20 families of 8, r = 0.5", families([8] * 20, 0.86, 0.5), power=True),
        Scenario("40 families of 4, r = 0.5", families([4] * 40, 0.5, 0.5), power=True),
        Scenario("31 unequal families", families(UNEQUAL, 0.6, 0.5)),
        Scenario("12 families of 13", families([13] * 12, 0.6, 0.5)),
        Scenario("6 families of 26", families([26] * 6, 0.6, 0.5)),
        Scenario("3 outputs, n = 70", outputs(70), power=True),
        Scenario("3 outputs, n = 160", outputs(160), power=True),
        Scenario("positions, 70 sequences", positions(70, 16), power=True),
        Scenario("5 folds, 470 rows", resplit(470, 5, "folds"), power=True),
        Scenario("10 folds, 470 rows", resplit(470, 10, "folds"), power=True),
        Scenario("5 folds of 94 families, 470 rows", resplit(470, 5, "folds", family=5)),
        Scenario("3 repeats, 470 rows", resplit(470, 3, "repeats")),
        Scenario("5 repeats, 470 rows", resplit(470, 5, "repeats"), power=True),
        Scenario("10 repeats, 470 rows", resplit(470, 10, "repeats")),
        Scenario(
            "10 repeats, 200 rows, heavy tails",
            resplit(200, 10, "repeats", width=20, heavy=True),
        ),
        Scenario("5 folds, 470 rows, one training each", resplit(470, 5, "folds", unsteady=1.0)),
        Scenario("one split of 470 rows against all splits", resplit(470, 1, "repeats")),
        Scenario(
            "accuracy 0.8, n = 160", classes(160, 0.8, [0.4, 0.3, 0.3]), 0.8, "accuracy", power=True
        ),
        Scenario("accuracy 0.97, n = 160", classes(160, 0.97, [0.4, 0.3, 0.3]), 0.97, "accuracy"),
        Scenario(
            "balanced accuracy, rare class, n = 225",
            classes(225, 0.8, [0.5, 0.42, 0.08]),
            0.8,
            "balanced-accuracy",
        ),
        Scenario("ties (5 values), n = 160", shaped(160, lambda x: np.clip(np.round(x), -2, 2))),
        Scenario("skewed (log-normal), Pearson, n = 225", shaped(225, np.exp), metric="pearson"),
    ]


def table(lines: Sequence[dict[str, Any]]) -> str:
    """A Markdown table; missing values are empty."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    rows = [
        [("" if line.get(name) is None else str(line[name])) for name in names] for line in lines
    ]
    head = [name.replace("_", " ") for name in names]
    text = [head, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=600, help="data sets of each null")
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="designs whose names hold this text")
    parser.add_argument(
        "--short", action="store_true", help=f"only {len(SHORT)} designs, 60 data sets"
    )
    asked = parser.parse_args(arguments)
    sets, resamples = (60, 50) if asked.short else (asked.sets, asked.resamples)
    names = {each.name for each in scenarios() if asked.only in each.name}
    sizes = [(70, 1), (160, 1), (400, 1), (400, 5), (2000, 1)]
    if asked.short:
        names, sizes = names & set(SHORT), sizes[:1]
    started = time.process_time()
    lines = [
        line
        for scenario in scenarios()
        if scenario.name in names
        for line in run(scenario, sets, resamples, asked.seed)
    ]
    chosen = [
        smallest(n, count, max(20, sets // 2), resamples, asked.seed)
        for n, count in sizes
        if asked.only in f"smallest, n = {n}"
    ]
    seconds = round(time.process_time() - started)
    print(
        json.dumps({"seed": asked.seed, "seconds": seconds, "designs": lines, "smallest": chosen})
    )
    for each in (lines, chosen):
        if each:
            print(f"\n{table(each)}")


if __name__ == "__main__":
    main()
