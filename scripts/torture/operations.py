"""What people do with a store: a scene in, all that was read and said out.

Each operation goes through a command, a route or the public library, so that it stays the same
whatever changes inside.
"""

from __future__ import annotations

import hashlib
import json
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torture.judging import STATUS, TRACEBACK, USAGE, Item, Said
from torture.samples import Sample

COMMAND_ENDS = (0, 1, 3)
DONE, FAILED = 0, 1


@dataclass(frozen=True)
class Scene:
    """Where an operation runs."""

    store: str
    run: Path
    """A run of `probe grid`."""
    out: Path
    """An empty folder to write to."""
    sample: Sample
    """What the store was made of."""
    routes: list[str]
    """Paths of the GET routes, where they are known: finding them takes half a second."""


Operation = Callable[[Scene], Said]


def get(scene: Scene) -> Said:
    """`RecipeReader.batch` and `means` of every key, and `get` one by one where they fail."""
    return Said(_embeddings(scene, scene.store))


def get_record(scene: Scene) -> Said:
    """`embedstore get` of one record of each collection."""
    said = Said()
    for collection, record in scene.sample.records.items():
        name = f"get {collection}"
        output = scene.out / f"{collection}.npy"
        words = ("get", scene.store, record, "--collection", collection, "-o", output)
        ended, _, errors, broken = command(
            "embedstore", *words, "--backbone", scene.sample.backbones[0]
        )
        if broken is not None:
            return Said(broken=broken)
        value = digest(output.read_bytes()) if ended == DONE else None
        said.items[name] = Item(value, errors, number=True)
    return said


def verify(scene: Scene) -> Said:
    """`embedstore verify`."""
    ended, printed, errors, broken = command("embedstore", "verify", scene.store)
    whole = ended == DONE or None
    return Said({"whole": Item(whole, printed)}, errors, broken)


def repair(scene: Scene) -> Said:
    """`embedstore repair`, then `verify`, which may find only what repair could not mend."""
    ended, printed, errors, broken = command("embedstore", "repair", scene.store, "--json")
    if broken is not None or ended not in COMMAND_ENDS:
        return Said(broken=broken)
    after, found, said_after, broken = command("embedstore", "verify", scene.store, "--json")
    if broken is not None:
        return Said(broken=broken)
    said = Said(text=f"{printed}\n{errors}")
    mended: Any = None
    if printed.strip():
        left = {each["where"] for each in json.loads(printed)["left"]}
        now = {each["where"] for each in json.loads(found)["problems"]} if found.strip() else set()
        mended = True if now <= left else f"still wrong: {sorted(now - left)}"
    elif after == DONE:
        mended = True
    said.items = _left(_embeddings(scene, scene.store))
    said.items["mended"] = Item(mended, said_after, number=True)
    return said


def build(scene: Scene) -> Said:
    """`embedstore build` of the same inputs once more."""
    said = Said()
    for collection, table in scene.sample.tables.items():
        backbones = ",".join(scene.sample.backbones)
        words = ("build", table, "--store", scene.store, "--name", collection, "--molecule", "mrna")
        ended, printed, errors, broken = command("embedstore", *words, "--backbone", backbones)
        if broken is not None:
            return Said(broken=broken)
        told = errors if ended != FAILED else f"{printed}\n{errors}"
        refused = None if ended == FAILED else "built"
        said.items[f"build {collection}"] = Item(refused, told)
        said.text += f"\n{errors}"
    said.items |= _embeddings(scene, scene.store)
    return said


def merge(scene: Scene) -> Said:
    """`embedstore merge` into a new store, which is whole whatever the source is."""
    target = scene.out / "merged.store"
    ended, printed, errors, broken = command("embedstore", "merge", scene.store, target)
    if broken is not None:
        return Said(broken=broken)
    said = Said(text=f"{errors}\n{printed if ended == FAILED else ''}")
    whole: Any = True
    if (target / "store.json").exists():
        ended, printed, errors, broken = command("embedstore", "verify", target)
        if broken is not None:
            return Said(broken=broken)
        whole = True if ended == DONE else f"{printed}\n{errors}"
        said.items = _left(_embeddings(scene, str(target)))
    said.items["whole"] = Item(whole, number=True)
    return said


def info(scene: Scene) -> Said:
    """`embedstore info`."""
    return _printed("embedstore", "info", scene.store, "--json")


def ls(scene: Scene) -> Said:
    """`embedstore ls`."""
    return _printed("embedstore", "ls", scene.store, "--json")


def missing(scene: Scene) -> Said:
    """`embedstore missing` of every backbone."""
    each = (("missing", scene.store, "--backbone", name) for name in scene.sample.backbones)
    return _all(_printed("embedstore", *words, "--json") for words in each)


def export(scene: Scene) -> Said:
    """`embedstore export` to HDF5, every matrix of it."""
    import h5py

    output = scene.out / "export.h5"
    words = ("export", scene.store, "--backbone", scene.sample.backbones[0], "-o", output)
    _, _, errors, broken = command("embedstore", *words, "--layout", "ids")
    said = Said(text=errors, broken=broken)
    if output.exists():
        with h5py.File(output) as file:
            said.items = {
                name: Item(digest(file[name][()].tobytes()), number=True) for name in file
            }
    return said


def neighbors(scene: Scene) -> Said:
    """`embedstore neighbors`."""
    collection, record = next(iter(scene.sample.records.items()))
    words = ("neighbors", scene.store, record, "--backbone", scene.sample.backbones[0])
    return _printed("embedstore", *words, "--collection", collection, "--json")


def gc(scene: Scene) -> Said:
    """`embedstore gc`, after which everything is still there."""
    ended, _, errors, broken = command("embedstore", "gc", scene.store)
    done = Item(True if ended == DONE else None, errors)
    return Said({"gc": done, **_embeddings(scene, scene.store)}, broken=broken)


def grid(scene: Scene) -> Said:
    """`probe grid` into a new run."""
    return _grid(scene, scene.out / "run")


def grid_again(scene: Scene) -> Said:
    """`probe grid` into a run that is there."""
    return _grid(scene, scene.run)


def predict(scene: Scene) -> Said:
    """`probe predict` with the probe of a run."""
    collection = next(iter(scene.sample.records))
    return _printed("probe", "predict", scene.run, scene.store, "--collection", collection)


def report(scene: Scene) -> Said:
    """`probe report` of a run."""
    output = scene.out / "report.html"
    ended, _, errors, broken = command("probe", "report", scene.run, "-o", output)
    page = output.read_text() if ended == DONE and output.exists() else None
    return Said({"report": Item(page and digest(page.encode()), errors)}, broken=broken)


def http(scene: Scene) -> Said:
    """Every GET route of the app, with names, ids and keys of the undamaged store."""
    from fastapi.testclient import TestClient

    from api.app import create_app
    from api.settings import Settings
    from embedstore.errors import StoreError

    said = Said()
    try:
        probes = scene.run if scene.run.is_dir() else None
        settings = Settings(store=scene.store, probes=probes)  # type: ignore[arg-type]
        app = create_app(settings)
    except StoreError as error:
        said.text = str(error)
        return said
    with Log() as log, TestClient(app, "http://127.0.0.1", False) as client:
        for path in scene.routes or _paths(scene.sample, app, probes is not None):
            answer = client.get(path)
            item = Item(number="/embedding" in path or "/mean" in path)
            if path == "/metrics":  # counts and times
                item.value = answer.status_code
            elif answer.status_code < 400:
                item.value, item.text = digest(answer.content), answer.text[:4000]
            else:
                wrong = _form_of(answer)
                if wrong:
                    return Said(broken=(wrong, f"GET {path}: {answer.text[:200]} {log.last}"))
                item.code, item.text = answer.json()["code"], answer.text
            said.items[path] = item
    if log.last and "Traceback" in log.last:
        said.broken = (TRACEBACK, log.last)
    return said


OPERATIONS: dict[str, Operation] = {
    "get": get,
    "get-record": get_record,
    "verify": verify,
    "repair": repair,
    "build": build,
    "merge": merge,
    "info": info,
    "ls": ls,
    "missing": missing,
    "export": export,
    "neighbors": neighbors,
    "gc": gc,
    "grid": grid,
    "grid-again": grid_again,
    "predict": predict,
    "report": report,
    "http": http,
}
NEED_A_RUN = ("grid", "grid-again", "predict", "report")
READ_A_RUN = ("grid-again", "predict", "report", "http")
"""Those that a damaged run can disturb; all but `report` read the store."""
WITHOUT_STORE = ("report",)


def concerned(path: str, names: Sequence[str]) -> list[str]:
    """The operations that read a path."""
    if path.startswith("run/"):
        return [name for name in names if name in READ_A_RUN or name not in OPERATIONS]
    return [name for name in names if name not in WITHOUT_STORE]


@cache
def _click_command(program: str) -> Any:
    import typer.main

    if program == "probe":
        from probe.cli import app
    else:
        from api.cli import app
    return typer.main.get_command(app)


def command(program: str, *words: Any) -> tuple[int, str, str, tuple[str, str] | None]:
    """Run a command in this process: exit code, stdout, stderr, and what no command may do."""
    from click.testing import CliRunner

    result = CliRunner().invoke(_click_command(program), [str(word) for word in words])
    broken = None
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        broken = (TRACEBACK, last_lines(result.exception))
    elif result.exit_code not in COMMAND_ENDS:
        broken = (USAGE, f"exit {result.exit_code}: {result.stderr[-300:]}")
    return result.exit_code, result.stdout, result.stderr, broken


def last_lines(error: BaseException) -> str:
    """The error and the innermost lines of ours that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if "/site-packages/" not in each.filename][-2:]
    where = " > ".join(f"{Path(each.filename).name}:{each.lineno}" for each in ours)
    return f"{type(error).__name__}: {str(error)[:200]} ({where})"


def digest(content: bytes) -> str:
    """A short name for bytes."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _printed(program: str, *words: Any) -> Said:
    """A command whose output is its value."""
    ended, printed, errors, broken = command(program, *words)
    value = None if ended == FAILED else printed
    return Said({f"{words[0]} {words[-2]}": Item(value, printed)}, errors, broken)


def _all(many: Iterator[Said]) -> Said:
    found = Said()
    for each in many:
        found.items |= each.items
        found.text += f"\n{each.text}"
        found.broken = found.broken or each.broken
    return found


def _grid(scene: Scene, run: Path) -> Said:
    words = ("grid", scene.store, "--collection", next(iter(scene.sample.records)))
    ended, printed, errors, broken = command(
        "probe", *words, *scene.sample.grid_words, "-o", run, "--json"
    )
    value = None
    if ended == DONE and broken is None:
        results = json.loads(printed)
        scores = {name: each["test_score"] for name, each in results["backbones"].items()}
        value = json.dumps([scores, results["comparisons"]["intervals"]], sort_keys=True)
    return Said({"scores": Item(value, errors)}, broken=broken)


def _embeddings(scene: Scene, store: str) -> dict[str, Item]:
    """Every embedding and average of the sample's keys, or the error of each."""
    from embedstore.errors import StoreError
    from embedstore.store import open_store

    items: dict[str, Item] = {}
    for backbone, keys in scene.sample.keys.items():
        for key in keys:
            items[f"{backbone}/{key}"] = Item(number=True)
            items[f"{backbone}/{key}/mean"] = Item(number=True)
        try:
            reader = open_store(store).recipe(backbone)
        except StoreError as error:
            for key in keys:
                for name in (f"{backbone}/{key}", f"{backbone}/{key}/mean"):
                    items[name] = Item(None, str(error), error.code, True)
            continue
        try:  # at once, as people do
            rows = reader.batch(keys).split()
            means = reader.means(keys)
            for key, tokens, mean in zip(keys, rows, means, strict=True):
                items[f"{backbone}/{key}"].value = digest(tokens.tobytes())
                items[f"{backbone}/{key}/mean"].value = digest(mean.tobytes())
            continue
        except StoreError:  # of one of them: then one by one
            pass
        for key in keys:
            for name, read in (
                (f"{backbone}/{key}", partial(reader.get, key)),
                (f"{backbone}/{key}/mean", partial(reader.means, [key])),
            ):
                try:
                    items[name].value = digest(read().tobytes())
                except StoreError as error:
                    items[name].text, items[name].code = str(error), error.code
    return items


def _left(items: dict[str, Item]) -> dict[str, Item]:
    """What is absent once an operation has set it aside or left it out, and has said so."""
    for each in items.values():
        each.code = ""
    return items


def _paths(sample: Sample, app: Any, probes: bool) -> list[str]:
    """Every path of a GET route, its parameters filled in."""
    collection, record = next(iter(sample.records.items()))
    paths = []
    for path, methods in app.openapi()["paths"].items():
        if "get" not in methods or ("/probes/" in path and not probes):
            continue
        for backbone in sample.backbones if "{recipe}" in path else sample.backbones[:1]:
            known = {
                "recipe": backbone,
                "key": sample.keys[backbone][0],
                "name": sample.probe if "/probes/" in path else collection,
                "id": sample.recipes[backbone] if "/models/" in path else quote(record, safe=""),
            }
            filled = path
            for name, value in known.items():
                filled = filled.replace(f"{{{name}}}", value)
            if any(each["name"] == "backbone" for each in methods["get"].get("parameters", ())):
                filled += f"?backbone={backbone}"
            paths.append(filled)
    paths += [f"/v1/collections/{name}/{quote(each, safe='')}/mean?backbone={sample.backbones[0]}"
              for name, each in list(sample.records.items())[1:]]  # fmt: skip
    return [*dict.fromkeys(paths), "/"]


def _form_of(answer: Any) -> str | None:
    """What is wrong with the form of an error; None where nothing is."""
    from api.errors import status_of
    from embedstore.errors import StoreError

    try:
        body = answer.json()
        formed = list(body) == ["code", "problem", "fix"] and all(body.values())
    except ValueError:
        formed = False
    if not formed or body["code"] == "internal":
        return TRACEBACK
    for kind in _below(StoreError):
        if kind.code == body["code"]:
            stub = kind.__new__(kind)
            if status_of(stub) == answer.status_code:
                return None
    return STATUS


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _below(each)


class Log(logging.Handler):
    """Keeps the last traceback that was logged, which a server hides from its clients."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record with an exception that is none of ours."""
        from embedstore.errors import StoreError

        if record.exc_info and not isinstance(record.exc_info[1], StoreError):
            assert record.exc_info[1] is not None
            self.last = f"Traceback: {last_lines(record.exc_info[1])}"

    def __enter__(self) -> Log:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
