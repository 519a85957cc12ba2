"""Plots as SVG text: numbers in, one `<svg>` element out.

They are drawn here and not by a plotting library so that colours follow the page (light or dark),
text stays text, a point takes ten bytes, and the same numbers give the same bytes. Colours and
fonts are classes of `page.css`. Every text goes through the XML writer, so it stays text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from numpy.typing import NDArray

SERIES = 8
"""Colours in `page.css`; further series begin anew."""
MOST_POINTS = 2000
"""Of a scatter plot; of more, evenly spaced ones are drawn."""
NAMED_CLASSES = 12
"""Most classes whose names are written along a table of confusions."""


@dataclass(frozen=True)
class Series:
    """One line of a plot with a band around it."""

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    labels: Sequence[str] = ()
    """Beside each point."""


@dataclass
class Frame:
    """A plot's area with its axes: data in, places in the picture out."""

    described: str
    """For people who do not see it."""
    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 340
    height: int = 250
    left: int = 46
    right: int = 20
    top: int = 10
    bottom: int = 38
    svg: Element = field(init=False)

    def __post_init__(self) -> None:
        self.svg = Element(
            "svg",
            {
                "viewBox": f"0 0 {self.width} {self.height}",
                "role": "img",
                "aria-label": self.described,
            },
        )

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies, in units of the picture."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.left + across * (self.width - self.left - self.right),
            self.height - self.bottom - up * (self.height - self.top - self.bottom),
        )

    def text(self, x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> None:
        """Write words at a place of the picture."""
        attributes = {"x": _n(x), "y": _n(y), "text-anchor": anchor}
        if kind:
            attributes["class"] = kind
        SubElement(self.svg, "text", attributes).text = words

    def path(self, points: Sequence[tuple[float, float]], kind: str, closed: bool = False) -> None:
        """Draw a line through points of the data."""
        places = [self.at(*point) for point in points]
        way = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in places) + ("Z" if closed else "")
        SubElement(self.svg, "path", {"class": kind, "d": way})

    def dots(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """Draw a dot at each point of the data: a line of no length with round ends."""
        places = [self.at(*point) for point in points]
        way = "".join(f"M{_n(x)} {_n(y)}h0" for x, y in places)
        SubElement(self.svg, "path", {"class": kind, "d": way})

    def axes(
        self,
        x_name: str,
        y_name: str,
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]],
    ) -> None:
        """Grid lines, numbers and names of both axes."""
        for value, words in x_ticks:
            across, _ = self.at(value, self.y[0])
            self.path([(value, self.y[0]), (value, self.y[1])], "grid")
            self.text(across, self.height - self.bottom + 14, words)
        for value, words in y_ticks:
            _, down = self.at(self.x[0], value)
            self.path([(self.x[0], value), (self.x[1], value)], "grid")
            self.text(self.left - 5, down + 3.5, words, "end")
        middle = (self.left + self.width - self.right) / 2
        self.text(middle, self.height - 6, x_name, kind="name")
        down = (self.top + self.height - self.bottom) / 2
        turned = {"transform": f"translate(11 {_n(down)}) rotate(-90)", "text-anchor": "middle"}
        SubElement(self.svg, "text", {**turned, "class": "name"}).text = y_name

    def done(self) -> str:
        """The element as text."""
        return tostring(self.svg, encoding="unicode")


def scatter(true: NDArray[np.float64], predicted: NDArray[np.float64], unit: str) -> str:
    """Predicted against true, on one scale for both axes; shape (N,) each."""
    finite = np.isfinite(predicted)
    true, predicted = true[finite], predicted[finite]
    if len(true) > MOST_POINTS:
        kept = np.linspace(0, len(true) - 1, MOST_POINTS).round().astype(int)
        true, predicted = true[kept], predicted[kept]
    both = np.concatenate([true, predicted])
    ends = _widen(both.min(initial=math.inf), both.max(initial=-math.inf))
    frame = Frame(f"predicted against true {unit}", ends, ends, height=300)
    ticks = _ticks(*ends)
    frame.axes(f"true {unit}", "predicted", ticks, ticks)
    frame.path([(ends[0], ends[0]), (ends[1], ends[1])], "reference")
    frame.dots(list(zip(true.tolist(), predicted.tolist(), strict=True)), "dots s0")
    return frame.done()


def confusion(true: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> str:
    """Share of each true class (a column) that was given each name; columns add up to 1."""
    number = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, ([number[p] for p in predicted], [number[t] for t in true]), 1)
    share = counts / np.maximum(counts.sum(axis=0), 1)
    named = len(classes) <= NAMED_CLASSES
    names = [_short(name) if named else "" for name in classes]
    cells = [[float(value) for value in row] for row in share]
    texts = [[f"{value:.2f}" if named else "" for value in row] for row in cells]
    return _cells("true class", "predicted", names, names, cells, texts)


def heat_map(
    x_name: str,
    y_name: str,
    x_values: Sequence[str],
    y_values: Sequence[str],
    scores: Sequence[Sequence[float | None]],
    chosen: tuple[int, int] | None,
) -> str:
    """A score for each pair of settings, row by row from the top; the chosen one is framed.

    Parameters
    ----------
    scores : None where there is none, nan where training diverged
    """
    known = [s for row in scores for s in row if s is not None and not math.isnan(s)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    span = (high - low) or 1.0
    shades = [
        [None if s is None or math.isnan(s) else 0.1 + 0.8 * (s - low) / span for s in row]
        for row in scores
    ]
    texts = [
        ["-" if s is None else "diverged" if math.isnan(s) else f"{s:.3f}" for s in row]
        for row in scores
    ]
    return _cells(x_name, y_name, x_values, y_values, shades, texts, chosen)


def curves(
    scores: Sequence[Sequence[float | None]], chosen: int | None, best: int | None, metric: str
) -> str:
    """Validation score after each epoch, a line for each configuration, the chosen one on top.

    Parameters
    ----------
    best : the chosen one's best epoch, counted from 1
    """
    known = [score for line in scores for score in line if score is not None]
    y = _widen(min(known, default=0.0), max(known, default=1.0))
    longest = max((len(line) for line in scores), default=1)
    frame = Frame(f"validation {metric} by epoch", (1.0, float(max(2, longest))), y)
    every = max(1, math.ceil((longest - 1) / 6))
    frame.axes(
        "epoch",
        f"validation {metric}",
        [(epoch, str(epoch)) for epoch in range(1, longest + 1, every)],
        _ticks(*y),
    )
    order = [number for number in range(len(scores)) if number != chosen]
    for number in [*order, *([] if chosen is None else [chosen])]:
        line = scores[number]
        points = [(epoch, s) for epoch, s in enumerate(line, 1) if s is not None]
        mine = number == chosen
        if len(points) > 1:
            frame.path(points, "line s0" if mine else "line other")
        elif points:
            frame.dots(points, "dots s0" if mine else "dots other")
        if mine and best is not None and best <= len(line) and line[best - 1] is not None:
            frame.dots([(best, line[best - 1] or 0.0)], "best s0")
    return frame.done()


def score_by_size(
    series: Sequence[Series], references: Sequence[tuple[str, float]], metric: str
) -> str:
    """Scores against parameters on a log axis, with bands; references are level lines.

    Parameters
    ----------
    series : x in parameters, more than 0
    references : name and score of what has no parameters
    """
    sizes = [x for each in series for x in each.x]
    tall = [v for each in series for v in (*each.y, *each.low, *each.high)]
    tall += [score for _, score in references]
    y = _widen(min(tall), max(tall))
    low = math.floor(math.log10(min(sizes)) - 0.2)
    high = math.ceil(math.log10(max(sizes)) + 0.2)
    frame = Frame(f"test {metric} against parameters", (low, high), y, width=430, height=300)
    ticks = [(float(power), size_text(10**power)) for power in range(low, high + 1)]
    frame.axes("parameters of the backbone", f"test {metric}", ticks, _ticks(*y))
    for _, score in references:
        frame.path([(low, score), (high, score)], "reference")
    for each in series:
        x = [math.log10(size) for size in each.x]
        colour = f"s{each.colour % SERIES}"
        if len(x) > 1:
            around = [*zip(x, each.high, strict=True), *zip(x[::-1], each.low[::-1], strict=True)]
            frame.path(around, f"band {colour}", closed=True)
            frame.path(list(zip(x, each.y, strict=True)), f"line {colour}")
        else:
            frame.path([(x[0], each.low[0]), (x[0], each.high[0])], f"line {colour}")
        frame.dots(list(zip(x, each.y, strict=True)), f"best {colour}")
    _write_labels(frame, series, references, (low, high))
    return frame.done()


def size_text(parameters: float) -> str:
    """A number of parameters as people write it: `7.4M`, `650M`, `15B`."""
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= limit:
            scaled = parameters / limit
            return f"{scaled:.0f}{letter}" if scaled >= 99.5 else f"{scaled:.3g}{letter}"
    return f"{parameters:.0f}"


def _write_labels(
    frame: Frame,
    series: Sequence[Series],
    references: Sequence[tuple[str, float]],
    x: tuple[float, float],
) -> None:
    """Names beside points and lines, moved apart where they would overlap."""
    taken: list[tuple[float, float, float]] = []  # left, right, height

    def place(left: float, down: float, words: str, kind: str) -> None:
        wide = 6.6 * len(words)
        left = min(left, frame.width - frame.right - wide)
        for step in (0, -11, 11, -22, 22, -33, 33):
            here = down + step
            if here < frame.top + 6 or here > frame.height - frame.bottom - 2:
                continue
            if all(abs(here - y) >= 10.5 or left > b or left + wide < a for a, b, y in taken):
                break
        taken.append((left, left + wide, here))
        frame.text(left, here, words, "start", kind)

    for each in series:
        for size, score, label in zip(each.x, each.y, each.labels, strict=True):
            across, down = frame.at(math.log10(size), score)
            place(across + 7, down - 5, label, f"label s{each.colour % SERIES}")
    for name, score in references:
        across, down = frame.at(x[0], score)
        place(across + 4, down - 4, name, "label quiet")


def _cells(
    x_name: str,
    y_name: str,
    x_values: Sequence[str],
    y_values: Sequence[str],
    shades: Sequence[Sequence[float | None]],
    texts: Sequence[Sequence[str]],
    chosen: tuple[int, int] | None = None,
) -> str:
    """A table of shaded cells, its first row on top; `chosen` is row and column."""
    columns, rows = len(x_values), len(y_values)
    left = 26 + 6 * max((len(value) for value in y_values), default=0)
    height = 48 + min(36, 220 // max(1, rows)) * rows
    frame = Frame(
        f"{y_name} by {x_name}", (0.0, columns), (float(rows), 0.0), height=height, left=left
    )
    wide = (frame.width - frame.left - frame.right) / max(1, columns)
    tall = (frame.height - frame.top - frame.bottom) / max(1, rows)
    for row, (line, words) in enumerate(zip(shades, texts, strict=True)):
        for column, (shade, word) in enumerate(zip(line, words, strict=True)):
            x, y = frame.left + column * wide, frame.top + row * tall
            box = {"x": _n(x), "y": _n(y), "width": _n(wide - 1.5), "height": _n(tall - 1.5)}
            kind = "cell chosen" if chosen == (row, column) else "cell"
            shown = {**box, "class": kind, "fill-opacity": f"{shade or 0.0:.2f}"}
            SubElement(frame.svg, "rect", shown)
            strong = "strong" if (shade or 0) > 0.55 else "name"
            if word:
                frame.text(x + wide / 2, y + tall / 2 + 3.5, word, kind=strong)
    many = max(1, math.ceil(columns * 6 * max(map(len, x_values), default=1) / 280))
    for column, name in enumerate(x_values):
        if name and column % many == 0:
            x = frame.left + (column + 0.5) * wide
            frame.text(x, frame.height - frame.bottom + 14, name)
    for row, name in enumerate(y_values):
        if name:
            frame.text(frame.left - 5, frame.top + (row + 0.5) * tall + 3.5, name, "end")
    frame.axes(x_name, y_name, (), ())
    return frame.done()


def _ticks(low: float, high: float, about: int = 5) -> list[tuple[float, str]]:
    """Round numbers within the ends, and how they are written."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (step / power == 2.5))
    first = math.ceil(low / step - 1e-9)
    values = [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]
    if max(abs(low), abs(high)) >= 1e5:
        return [(value, f"{value:.2g}") for value in values]
    return [(value, f"{value + 0.0:.{digits}f}") for value in values]


def _widen(low: float, high: float) -> tuple[float, float]:
    """The ends with some room around them; of nothing, or of one value, any that differ."""
    if not math.isfinite(low) or not math.isfinite(high):
        return 0.0, 1.0
    room = 0.05 * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _n(value: float) -> str:
    """A number with a tenth of a unit, as short as it goes."""
    text = f"{value:.1f}"
    return text.removesuffix(".0")
