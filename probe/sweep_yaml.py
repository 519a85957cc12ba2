"""Plain YAML: bytes of a sweep file in; lists, fields and single values out.

No tags, no field twice, no depth, no aliases that stand for millions of values: what a sweep has
no use for is refused with the line where it stands, before anything is built of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from embedstore.errors import BadInput

MOST_BYTES = 1 << 20
DEEPEST = 20
"""Lists and fields inside one another."""
MOST_VALUES = 20_000
"""With all that aliases stand for."""
MOST_DIGITS = 30
"""Of a whole number."""
_PLAIN = ("null", "bool", "int", "float", "str")
_TAG = "tag:yaml.org,2002:"


def read_yaml(path: Path, content: bytes) -> Any:
    """The values in a YAML file.

    Parameters
    ----------
    path : of the file, for errors

    Raises
    ------
    BadInput
        It is no YAML, or uses what a sweep file cannot have: file and line are named.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _bad(path, line, "it is no UTF-8 text") from None
    try:
        _check(path, text)
        return yaml.load(text, _Loader)
    except BadInput:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        said = getattr(error, "problem", None) or " ".join(str(error).split())
        raise _bad(path, None if mark is None else mark.line + 1, said) from None
    except (ValueError, OverflowError) as error:  # a reader of single values
        raise _bad(path, None, str(error)) from None


def _check(path: Path, text: str) -> None:
    """Refuse what must not even be built."""
    open_nodes: list[_Node] = []
    anchors: dict[str, _Node] = {}
    documents = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _bad(path, line, "it has a second document")
        elif isinstance(event, yaml.CollectionEndEvent):
            done = open_nodes.pop()
            done.finished = True
        elif isinstance(event, yaml.NodeEvent):
            if getattr(event, "tag", None):
                raise _bad(path, line, f"the tag {str(event.tag)[:40]!r} cannot be used")
            node = _Node()
            if isinstance(event, yaml.AliasEvent):
                node = anchors.get(event.anchor, node)
                if not node.finished:
                    raise _bad(path, line, f"*{event.anchor[:40]} stands in itself, or for nothing")
            elif event.anchor:
                anchors[event.anchor] = node
            for level, outer in enumerate(reversed(open_nodes), 1):
                outer.values += node.values
                outer.depth = max(outer.depth, node.depth + level)
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append(node)
            else:
                node.finished = True
            outermost = open_nodes[0] if open_nodes else node
            if outermost.depth >= DEEPEST or len(open_nodes) > DEEPEST:
                raise _bad(path, line, f"more than {DEEPEST} lists and fields in one another")
            if outermost.values > MOST_VALUES:
                raise _bad(path, line, f"it stands for more than {MOST_VALUES:,} values")


@dataclass
class _Node:
    """A value, list or fields, with everything that its aliases stand for."""

    values: int = 1
    depth: int = 0
    finished: bool = False


def _bad(path: Path, line: int | None, why: str) -> BadInput:
    where = "" if line is None else f", line {line}"
    said = " ".join("".join(c if c.isprintable() else " " for c in why).split())
    return BadInput(
        f"{str(path)!r} is no YAML of a sweep{where}: {said[:200]}.", "Correct the file."
    )


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Builds plain values alone, each from its line; a field named twice is refused."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._single(node)
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _wrong("a list or fields cannot name a field", key)
            name = self.construct_object(key, deep=True)
            if name in names:
                raise _wrong(f"{name!r} stands twice", key)
            names.add(name)
        fields: dict[Any, Any] = super().construct_mapping(node, deep)
        return fields

    def _single(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_TAG)
        shown = str(node.value)[:40]
        if kind not in _PLAIN:
            raise _wrong(f"{shown!r} is read as a {kind}: put it in quotes", node)
        if kind == "int" and len(node.value) > MOST_DIGITS:
            raise _wrong(f"{shown!r} is too large a number", node)
        try:
            value = super().construct_object(node)
        except ValueError as error:
            raise _wrong(f"{shown!r} cannot be read ({error})", node) from None
        if kind == "str" and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _wrong(f"{shown!r} holds half a character", node)
        if kind == "float" and not math.isfinite(value):
            raise _wrong(f"{shown!r} is no finite number", node)
        return value


def _wrong(what: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)
