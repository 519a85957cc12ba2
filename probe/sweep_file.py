"""The YAML file of a sweep: text in; every run that it asks for, in order, out.

`docs/report.md` describes the fields.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from embedstore.backbones.specs import find_spec
from embedstore.errors import BadInput, UnknownBackbone
from embedstore.regular_files import read_regular
from probe.grid import Grid, SearchRule
from probe.metrics import Metric
from probe.number_cells import DecimalMark
from probe.split_rules import SplitRule
from probe.sweep_yaml import MOST_BYTES, read_yaml
from probe.tasks import Kind, Transform
from probe.training import HeadKind

TOP = ("store", "backbones", "tasks", "heads", "splits", "seed", "search", "grid", "force")
TASK = (
    *("name", "collection", "label", "kind", "transform", "min_label", "max_nt", "backbones"),
    *("metric", "balance", "decimal"),
)
GRID = ("batch_sizes", "learning_rates", "epochs", "patience", "seeds")
SPLIT = ("rule", "folds", "fold")
FAMILY = ("family", "sizes")
MANY = 10_000
"""Folds, seeds, epochs or runs: more are a mistake."""

_RECIPE = re.compile(r"(.+)-[0-9a-f]{10}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class SweepTask:
    """One task of a sweep, before the store was asked what its label is."""

    name: str
    """In the names of its runs."""
    collection: str
    label: str
    kind: Kind | None
    """None: as `probe grid` infers it."""
    transform: Transform | None
    min_label: float | None
    max_nt: int | None
    backbones: tuple[str, ...]
    metric: Metric | None = None
    balance: bool = False
    decimal: DecimalMark = "."


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """One run: a task, a head, a split and a seed, with all backbones of the task."""

    name: str
    """Of its folder."""
    task: SweepTask
    head: HeadKind
    split: SplitRule
    grid: Grid
    search: SearchRule
    force: bool


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Everything that a sweep file says."""

    file: str
    """Name of the file."""
    text: bytes = field(repr=False)
    store: str
    """Folder or URL."""
    runs: tuple[SweepRun, ...]

    @property
    def digest(self) -> str:
        """BLAKE2b-128 of the file, 32 hex digits."""
        return hashlib.blake2b(self.text, digest_size=16).hexdigest()


def read_sweep(path: Path) -> Sweep:
    """The sweep that a YAML file describes, checked field by field.

    Paths in it (`store`, saved splits) are relative to the file's folder.

    Raises
    ------
    BadInput
        The file is missing or no YAML, a field is unknown, missing or of the wrong type, or two
        runs would have one name. The sentence says where.
    UnknownBackbone
        A backbone is in no table; the closest known name is given.
    """
    try:
        text = read_regular(path, most=MOST_BYTES)
    except OSError as error:
        raise BadInput(
            f"{str(path)!r} cannot be read: {error.strerror}.", "Check the path."
        ) from error
    try:
        return _sweep(path, text, read_yaml(path, text))
    except UnknownBackbone as error:
        raise UnknownBackbone(f"{str(path)!r}: {error.problem}", error.fix) from None
    except BadInput as error:
        if str(path) in error.problem:
            raise
        raise BadInput(f"{str(path)!r}: {error.problem}", error.fix) from None


def _sweep(path: Path, text: bytes, values: Any) -> Sweep:
    top = _fields(values, "the file", TOP, ("store", "backbones", "tasks"))
    shared = _backbones(top["backbones"], "backbones")
    tasks = [
        _task(each, f"tasks[{number}]", shared)
        for number, each in enumerate(_list(top["tasks"], "tasks"))
    ]
    heads = [_one_of(each, "heads", HeadKind) for each in _list(top.get("heads", "textcnn"), "")]
    splits = [
        rule
        for number, each in enumerate(_list(top.get("splits", "random"), "splits"))
        for rule in _splits(each, f"splits[{number}]", path.parent)
    ]
    seeds = [_whole(each, "seed", 0) for each in _list(top.get("seed", 0), "seed")]
    search = _one_of(top.get("search", "full"), "search", SearchRule)
    force = _truth(top.get("force", False), "force")
    count = len(tasks) * len(splits) * len(seeds) * len(heads)
    if count > MANY:
        raise BadInput(f"The file asks for {count:,} runs.", f"Ask for at most {MANY:,}.")
    grids = [_grid(top.get("grid", {}), seed) for seed in seeds]
    runs = tuple(
        SweepRun(
            name=_run_name(task, head, split, grid.seed, len(seeds) > 1),
            task=task,
            head=head,
            split=split,
            grid=grid,
            search=search,
            force=force,
        )
        for task, split, grid, head in itertools.product(tasks, splits, grids, heads)
    )
    _check_names([run.name for run in runs])
    store = _text(top["store"], "store")
    if "://" not in store:  # else a bucket
        store = str(path.parent / store)
    return Sweep(file=path.name, text=text, store=store, runs=runs)


def _task(values: Any, where: str, shared: tuple[str, ...]) -> SweepTask:
    found = _fields(values, where, TASK, ("collection", "label"))
    collection = _text(found["collection"], f"{where}.collection")
    label = _text(found["label"], f"{where}.label")
    optional = {name: found.get(name) for name in ("kind", "transform", "min_label", "max_nt")}
    kind, transform, least, most = optional.values()
    return SweepTask(
        name=_safe(_text(found.get("name", f"{collection}-{label}"), f"{where}.name")),
        collection=collection,
        label=label,
        kind=None if kind is None else _one_of(kind, f"{where}.kind", Kind),
        transform=None
        if transform is None
        else _one_of(transform, f"{where}.transform", Transform),
        min_label=None if least is None else _number(least, f"{where}.min_label"),
        max_nt=None if most is None else _whole(most, f"{where}.max_nt", 1),
        backbones=_backbones(found["backbones"], f"{where}.backbones")
        if "backbones" in found
        else shared,
        metric=_one_of(found["metric"], f"{where}.metric", Metric) if "metric" in found else None,
        balance=_truth(found.get("balance", False), f"{where}.balance"),
        decimal=_one_of(found.get("decimal", "."), f"{where}.decimal", DecimalMark),
    )


def _backbones(values: Any, where: str) -> tuple[str, ...]:
    """Names, and `{family: esm2, sizes: [8m, 35m]}` spelled out; each is in the table."""
    names: list[str] = []
    for number, each in enumerate(_list(values, where)):
        if isinstance(each, Mapping):
            at = f"{where}[{number}]"
            found = _fields(each, at, FAMILY, FAMILY)
            family = _text(found["family"], f"{at}.family")
            names += [f"{family}-{str(size).lower()}" for size in _list(found["sizes"], at)]
        else:
            names.append(_text(each, f"{where}[{number}]"))
    for name in names:
        for part in name.split("+"):  # several joined into one
            recipe = _RECIPE.fullmatch(part)
            try:
                find_spec(recipe[1] if recipe else part)
            except UnknownBackbone as error:
                raise UnknownBackbone(f"{where}: {error.problem}", error.fix) from None
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"{where} names {twice!r} twice.", "Name each backbone once.")
    return tuple(names)


def _splits(value: Any, where: str, folder: Path) -> Iterator[SplitRule]:
    """One rule, or one for each fold where folds are asked for and none is named."""
    if not isinstance(value, Mapping):
        value = {"rule": value}
    found = _fields(value, where, SPLIT, ("rule",))
    text = _text(found["rule"], f"{where}.rule")
    if (folder / text).is_file():
        text = str(folder / text)
    if "folds" not in found:
        yield SplitRule(text=text, fold=_whole(found.get("fold", 0), f"{where}.fold", 0))
        return
    folds = _whole(found["folds"], f"{where}.folds", 3, MANY)
    asked = found.get("fold", list(range(folds)))
    for fold in _list(asked, f"{where}.fold"):
        number = _whole(fold, f"{where}.fold", 0)
        if number >= folds:
            raise BadInput(
                f"{where}.fold is {number}, and folds are counted from 0 to {folds - 1}.",
                "Correct the file, or leave fold out to run them all.",
            )
        yield SplitRule(text=text, folds=folds, fold=number)


def _grid(values: Any, seed: int) -> Grid:
    found = _fields(values, "grid", GRID)
    options: dict[str, Any] = {"seed": seed}
    if "batch_sizes" in found:
        sizes = _list(found["batch_sizes"], "grid.batch_sizes")
        options["batch_sizes"] = tuple(_whole(each, "grid.batch_sizes", 1) for each in sizes)
    if "learning_rates" in found:
        rates = _list(found["learning_rates"], "grid.learning_rates")
        options["learning_rates"] = tuple(_number(each, "grid.learning_rates") for each in rates)
    for name in ("epochs", "patience", "seeds"):
        if name in found:
            options[name] = _whole(found[name], f"grid.{name}", 1, MANY)
    return Grid(**options)


def _run_name(task: SweepTask, head: str, split: SplitRule, seed: int, several: bool) -> str:
    text = Path(split.text).stem if split.text.endswith(".json") else split.text
    parts = [task.name, head, _safe(text)]
    if split.folds is not None:
        parts.append(f"fold{split.fold}of{split.folds}")
    if several:
        parts.append(f"seed{seed}")
    return ".".join(parts)


def _check_names(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(
            f"Two runs would be named {twice!r}.",
            "Give tasks a `name` of their own, and list each head, split and seed once.",
        )


def _safe(text: str) -> str:
    """The text as part of a folder's name."""
    return _UNSAFE.sub("-", text).strip("-.") or "task"


def _fields(
    value: Any, where: str, known: Sequence[str], needed: Sequence[str] = ()
) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(where, value, f"fields: {', '.join(known)}")
    for name in value:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            raise BadInput(
                f"{where} has an unknown field {str(name)!r}.", f"{hint}Known: {', '.join(known)}."
            )
    for name in needed:
        if name not in value:
            raise BadInput(f"{where} has no {name!r}.", f"Add it; fields: {', '.join(known)}.")
    return dict(value)


def _list(value: Any, where: str) -> list[Any]:
    """A list, or the one value that stands without brackets."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise BadInput(f"{where} is empty.", "List at least one.")
    return values


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(where, value, "text; put it in quotes if it looks like something else")
    return value


def _number(value: Any, where: str) -> float:
    try:
        if not isinstance(value, bool) and math.isfinite(float(value)):
            return float(value)  # YAML takes 1e-4 for text
    except (TypeError, ValueError, OverflowError):
        pass
    raise _wrong(where, value, "a finite number")


def _truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, value, "true or false")
    return value


def _whole(value: Any, where: str, least: int, most: int = 2**53) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        up = f", at most {most:,}" if isinstance(value, int) and value > most else ""
        raise _wrong(where, value, f"a whole number of {least} or more{up}")
    return value


def _one_of(value: Any, where: str, choices: Any) -> Any:
    if value not in get_args(choices):
        raise _wrong(where, value, f"one of {', '.join(get_args(choices))}")
    return value


def _wrong(where: str, value: Any, wanted: str) -> BadInput:
    return BadInput(f"{where} is {value!r}.", f"It must be {wanted}.")
