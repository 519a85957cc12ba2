"""Files of a collection: any damage is named or changes nothing, and no writer loses another's."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from typer.testing import CliRunner

from embedstore import create_store, open_store
from embedstore.cli import app
from embedstore.documents import seal
from embedstore.errors import (
    BadInput,
    CollectionConflict,
    DamagedSegment,
    InUse,
    MissingCollection,
    NewerFormat,
    WriteFailed,
)
from embedstore.records import Record
from embedstore.store import collection_files, collection_table, collection_writing
from embedstore.store.collection import make_table
from embedstore.store.collection_check import check_collection, check_collections
from embedstore.store.collection_table import BadTable, decode_table, encode_table
from embedstore.store.collection_writing import NewTable
from embedstore.store.files import write_atomically
from embedstore.store.gc import collect_garbage
from embedstore.store.merge import merge
from embedstore.store.objects import ObjectPath
from embedstore.store.repair import repair
from embedstore.store.verify import verify

GOLDEN = Path(__file__).parents[2] / "golden" / "store-format-1" / "store"


def table(*ids: str, **labels: list[object]) -> pa.Table:
    rows = [Record(name, "AUGGCU" + "AAA" * len(name) + "UAA", "mrna") for name in ids]
    return make_table(rows, pa.table(labels or {"x": [float(n) for n in range(len(ids))]}))


@pytest.fixture
def store(tmp_path):
    made = create_store(tmp_path / "s")
    made.write_collection("genes", table("a", "bb", "ccc"))
    made.write_collection("other", table("d", "ee"))
    return made


@pytest.fixture(params=[False, True], ids=["disk", "bucket"])
def anywhere(request, tmp_path):
    return create_store(f"memory://{uuid.uuid4().hex}/s" if request.param else tmp_path / "s")


def files_of(store, name="genes"):
    """Document and table file."""
    folder = store.folder / "collections"
    (found,) = folder.glob(f"{name}.*.parquet")
    return folder / f"{name}.json", found


def write_old(store, name, rows):
    """A collection as stores of before have it."""
    write_atomically(store.folder / "collections" / f"{name}.parquet", encode_table(rows))


def test_document_and_table_file_name_each_other(store):
    document, path = files_of(store)
    told = json.loads(document.read_text())
    digest = path.name.split(".")[1]
    b2sum = subprocess.run(["b2sum", "-l", "128", str(path)], capture_output=True, check=True)
    assert told["table"] == {"digest": digest, "bytes": path.stat().st_size}
    assert b2sum.stdout.split()[0].decode() == digest
    assert (told["name"], told["rows"], told["format"]) == ("genes", 3, 1)
    assert [each["name"] for each in told["columns"]] == parquet.read_schema(path).names
    assert {each["type"] for each in told["columns"]} == {"string", "large_string", "double"}


def test_one_changed_bit_is_damage_that_names_the_file(store):
    for path in files_of(store):
        whole = path.read_bytes()
        assert len(whole) > 500
        for at in range(0, len(whole), 3):
            changed = bytearray(whole)
            changed[at] ^= 1 << at // 3 % 8
            path.write_bytes(changed)
            with pytest.raises(DamagedSegment, match=r"collections/genes\.\S+ is damaged") as told:
                store.collection("genes")
            assert path.name in str(told.value) or path.suffix == ".json"
        path.write_bytes(whole)
    assert store.collection("genes").ids == ["a", "bb", "ccc"]


def harm(path: Path, how: str, other: Path, outside: Path) -> None:
    whole = path.read_bytes()
    path.unlink()
    match how:
        case "flip":
            path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 4]) + whole[-19:])
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "longer":
            path.write_bytes(whole + b"\0")
        case "empty":
            path.write_bytes(b"")
        case "folder":
            path.mkdir()
            (path / "x").write_bytes(b"x")
        case "fifo":
            os.mkfifo(path)
        case "link out":
            (outside / path.name).write_bytes(whole)
            path.symlink_to(outside / path.name)
        case "link to nothing":
            path.symlink_to("nothing")
        case "device":
            path.symlink_to("/dev/zero")
        case "other":
            shutil.copy(other, path)
        case "sparse":
            with path.open("wb") as file:
                file.truncate(1 << 40)


HARM = (
    *("flip", "cut", "longer", "empty", "gone", "folder", "fifo", "link out", "link to nothing"),
    *("device", "other", "sparse"),
)


@pytest.mark.parametrize("part", ["document", "table"])
def test_whatever_stands_in_the_place_of_a_file_is_named_and_set_aside(store, tmp_path, part):
    whole = store.collection("genes").table
    for how in HARM:
        copy = open_store(shutil.copytree(store.folder, tmp_path / how / "s"))
        at = ("document", "table").index(part)
        path, other = files_of(copy)[at], files_of(copy, "other")[at]
        outside = tmp_path / how / "outside"
        outside.mkdir()
        harm(path, how, other, outside)
        report = verify(copy)
        if (part, how) == ("document", "gone"):  # as a writer leaves it that was killed before
            with pytest.raises(MissingCollection, match=r"no genes\.json that names it"):
                copy.collection("genes")
            assert (report.whole, len(report.leftovers)) == (True, 1)
            continue
        with pytest.raises(DamagedSegment, match="genes") as told:
            copy.collection("genes")
        assert "\n" not in str(told.value) and "repair" in told.value.fix
        (problem,) = report.problems
        assert (problem.kind, problem.where) == ("collection", "collections/genes.json"), how
        assert path.name in problem.what, how
        assert copy.collection("other").ids == ["d", "ee"]
        done = repair(copy)
        assert not done.left and verify(copy).whole, how
        if part == "document":  # the digest proves the table: nothing is lost
            assert done.collections_restored == ["collections/genes.json"], how
            assert copy.collection("genes").table.equals(whole)
        else:
            (aside,) = done.collections_quarantined
            assert (copy.folder / aside / "genes.json").is_file()
            assert how == "gone" or os.path.lexists(copy.folder / aside / path.name)
            assert copy.collections() == ["other"]
            copy.write_collection("genes", whole)
            assert copy.collection("genes").table.equals(whole)
        assert copy.collection("other").ids == ["d", "ee"]
        assert all(each.read_bytes() for each in outside.iterdir()), how


def test_files_of_another_collection_under_both_names_are_damage(store):
    mine, theirs = files_of(store), files_of(store, "other")
    shutil.copy(theirs[0], mine[0])
    shutil.copy(theirs[1], theirs[1].with_name(theirs[1].name.replace("other", "genes")))
    with pytest.raises(DamagedSegment, match="it is that of collection 'other'"):
        store.collection("genes")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"rows": 4}, "has 3 rows, and its document says 4"),
        ({"rows": -1}, "'rows' is -1"),
        ({"rows": "3"}, "'rows' is '3'"),
        ({"columns": []}, "has 8 columns, and its document 0"),
        ({"table": {"digest": "../../../x", "bytes": 1}}, r"table\.digest"),
        ({"table": {"digest": "0" * 32, "bytes": 1}}, "it is not there"),
        ({"table": {"digest": "0" * 32, "bytes": 2**60}}, r"table\.bytes"),
        ({"more": 1}, "'more' is unknown"),
        ({"kind": "segment"}, "'kind' is 'segment'"),
        ({"name": "../genes"}, "that of collection"),
    ],
)
def test_a_sealed_document_that_says_something_else_is_damage(store, change, said):
    document, _ = files_of(store)
    told = {**json.loads(document.read_text()), **change}
    del told["checksum"]
    document.write_text(json.dumps(seal(told)))
    with pytest.raises(DamagedSegment, match=said):
        store.collection("genes")
    assert len(verify(store).problems) == 1


def test_a_document_of_a_later_version_is_refused_and_not_set_aside(store, snapshot):
    document, _ = files_of(store)
    document.write_text(json.dumps({**json.loads(document.read_text()), "format": 2}))
    before = snapshot(store.folder)
    with pytest.raises(NewerFormat, match="Install a newer"):
        store.collection("genes")
    (problem,) = verify(store).problems
    assert repair(store).left == [problem]
    assert collect_garbage(store, older_than=-1e9) == []
    assert snapshot(store.folder) == before


COLUMNS = [
    ("id", None, "'id' is missing"),
    ("molecule", None, "'molecule' is missing"),
    ("key_cds", None, "'key_cds' is missing"),
    ("id", pa.array([b"a", b"bb", b"ccc"]), "'id' is of type binary"),
    ("sequence", pa.array([1, 2, 3]), "'sequence' is of type int64"),
    ("id", pa.array(["a", None, "c"]), "'id' has a row without a value"),
    ("id", pa.array(["a", "a", "c"]), "the id 'a' stands twice"),
    ("molecule", pa.array(["mrna", "mrna", "xna"]), "'xna'"),
    ("sequence", pa.array(["AUG", "AUG", "AU/"]), "'sequence' has a letter"),
    ("key_mrna", pa.array(["0" * 32, "z" * 32, None]), "'key_mrna' has a value that is no key"),
    ("key_dna", pa.array(["0" * 31, None, None]), "'key_dna' has a value that is no key"),
]


@pytest.mark.parametrize("name, column, said", COLUMNS)
def test_a_column_that_no_collection_has_is_damage_by_name(store, name, column, said):
    """Also where every checksum agrees, as in a table that somebody else made."""
    rows = store.collection("genes").table
    at = rows.column_names.index(name)
    rows = rows.remove_column(at)
    if column is not None:
        rows = rows.add_column(at, name, column)
    with pytest.raises(BadInput, match=said):
        store.write_collection("more", rows)
    assert store.collections() == ["genes", "other"]
    write_old(store, "old", rows)
    new = NewTable(store.folder, "new", rows)
    write_atomically(store.folder / "collections" / "new.json", new.document)
    for each, file in (("old", "old.parquet"), ("new", new.path.name)):
        with pytest.raises(DamagedSegment, match=said) as told:
            store.collection(each)
        assert file in str(told.value)
    assert len(verify(store).problems) == 2


def test_no_changed_bit_of_the_footer_of_a_golden_table_takes_rows_away():
    """Of before, so without a digest: what can be told without one is."""
    whole = (GOLDEN / "collections" / "genes.parquet").read_bytes()
    ids = decode_table(whole).column("id").to_pylist()
    names = decode_table(whole).column_names
    length = int.from_bytes(whole[-8:-4], "little")
    assert 1000 < length < len(whole)
    refused = 0
    for at in range(len(whole) - 8 - length, len(whole), 3):
        changed = bytearray(whole)
        changed[at] ^= 1 << at // 3 % 8
        try:
            found = decode_table(bytes(changed))
        except BadTable:
            refused += 1
        else:
            assert (found.column_names, found.column("id").to_pylist()) == (names, ids), at
    assert refused > 200


def test_a_table_that_claims_more_than_its_size_allows_is_refused(monkeypatch):
    content = encode_table(table(*(f"g{n}" for n in range(100))))
    assert len(decode_table(content)) == 100
    with monkeypatch.context() as patch:
        patch.setattr(collection_table, "FEW_ROWS", 10)
        patch.setattr(collection_table, "ROWS_A_BYTE", 0)
        with pytest.raises(BadTable, match="claims to hold 100 rows"):
            decode_table(content)
    monkeypatch.setattr(collection_table, "FEW_BYTES", 10)
    monkeypatch.setattr(collection_table, "EXPANSION", 0)
    with pytest.raises(BadTable, match="claims to hold 100 rows"):
        decode_table(content)


def test_a_collection_of_before_is_read_and_rewritten_when_it_changes(anywhere):
    store = anywhere
    write_atomically(store.folder / "store.json", b'{"format": 1}')
    old = table("a", "bb", "ccc")
    write_old(store, "genes", old)
    assert not store.write_collection("genes", old)
    assert store.collections() == ["genes"] and verify(store).whole
    assert store.write_collection("genes", table("a", "bb", "ccc", "dddd"))
    names = sorted(each.name for each in (store.folder / "collections").iterdir())
    assert [each for each in names if not each.startswith(".")] == [
        next(each for each in names if each.startswith("genes.") and len(each) == 46),
        "genes.json",
    ]
    write_old(store, "genes", old)  # as a writer leaves it that is killed right after
    assert store.collection("genes").ids == ["a", "bb", "ccc", "dddd"]
    assert verify(store).whole


def test_a_reader_that_meets_a_writer_reads_the_new_table(anywhere, monkeypatch):
    """The old document, then the table file that was just removed."""
    store = anywhere
    store.write_collection("genes", table("a"))
    read, first = collection_files.read_table_file, ["bb"]

    def replace_then_read(*arguments):
        if first:
            store.write_collection("genes", table("a", first.pop()), replace=True)
        return read(*arguments)

    monkeypatch.setattr(collection_files, "read_table_file", replace_then_read)
    assert store.collection("genes").ids == ["a", "bb"]


def test_what_a_killed_writer_leaves_is_no_problem_and_goes_after_its_grace(anywhere):
    store = anywhere
    store.write_collection("genes", table("a"))
    for name in ("genes", "never"):
        NewTable(store.folder, name, table("a", "bb"))
    report = verify(store)
    assert report.whole and len(report.leftovers) == 2
    assert store.collections() == ["genes"]
    assert collect_garbage(store) == []
    if isinstance(store.folder, Path):
        for where in report.leftovers:
            os.utime(store.folder / where, (1, 1))
    gone = collect_garbage(store, older_than=-1e9 if isinstance(store.folder, ObjectPath) else 60)
    assert sorted(each.where for each in gone) == sorted(report.leftovers)
    assert {each.kind for each in gone} == {"table"}
    assert verify(store).leftovers == [] and store.collection("genes").ids == ["a"]


def test_a_writer_that_slept_while_gc_ran_still_publishes_its_table(anywhere):
    store = anywhere
    store.write_collection("genes", table("a"))
    stored = collection_files.read_collection(store.folder, "genes")
    new = NewTable(store.folder, "genes", table("a", "bb"))
    new.path.unlink()
    assert new.publish(stored.state)
    assert store.collection("genes").ids == ["a", "bb"] and verify(store).whole


def test_who_comes_second_is_compared_with_the_first(anywhere, monkeypatch):
    """Both have read the same collection; the second adds to what the first wrote, or is told."""
    store = anywhere
    publish, others = NewTable.publish, []

    def other_first(self, seen):
        if others:
            store.write_collection("genes", others.pop())
        return publish(self, seen)

    monkeypatch.setattr(NewTable, "publish", other_first)
    for before in (None, table("a")):
        if before is not None:
            store.write_collection("genes", before, replace=True)
        others.append(table("a", "bb"))
        with pytest.raises(CollectionConflict, match="'bb' changed or gone"):
            store.write_collection("genes", table("a", "ccc"))
        assert store.collection("genes").ids == ["a", "bb"]
        others.append(table("a", "bb", "dddd"))
        assert store.write_collection("genes", table("a", "bb", "dddd", "eeeee"))
        assert store.collection("genes").ids == ["a", "bb", "dddd", "eeeee"]
        others.append(table("a", "bb", "dddd", "eeeee", "f"))
        assert not store.write_collection("genes", table("a", "bb", "dddd", "eeeee", "f"))
        assert verify(store).whole and not verify(store).leftovers
        store.write_collection("genes", table("a"), replace=True)


def test_a_bucket_without_conditional_requests_is_looked_at_again(monkeypatch):
    store = create_store(f"memory://{uuid.uuid4().hex}/s")
    store.write_collection("genes", table("a"))
    monkeypatch.setattr(ObjectPath, "swap", lambda *_: None)
    assert store.write_collection("genes", table("a", "bb"))
    assert store.collection("genes").ids == ["a", "bb"]


ADD = """
import sys, time, pyarrow as pa
from embedstore import open_store
from embedstore.errors import CollectionConflict, MissingCollection
from embedstore.records import Record
from embedstore.store.collection import make_table
from embedstore.store.collection_writing import NewTable

def slowly(self, seen, publish=NewTable.publish):
    time.sleep(0.03)  # so that others come between
    return publish(self, seen)

NewTable.publish = slowly
store, mine = open_store(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(5):
    while True:
        try:
            records = store.collection("genes").records()
        except MissingCollection:
            records = []
        records.append(Record(f"{mine}-{number}", "AUGUAA", "mrna"))
        try:
            store.write_collection("genes", make_table(records, pa.table({})))
        except CollectionConflict:
            continue
        break
"""


def test_processes_that_add_to_one_collection_lose_nothing(tmp_path):
    store = create_store(tmp_path / "s")
    store.write_collection("other", table("a"))
    command, pipe = [sys.executable, "-c", ADD, str(store.folder)], subprocess.PIPE
    processes = [subprocess.Popen([*command, name], stdin=pipe, stdout=pipe) for name in "pq"]
    for each in processes:
        assert each.stdout.readline() == b"ready\n"
    for each in processes:
        each.stdin.write(b"\n")
        each.stdin.flush()
    for each in processes:
        each.communicate(timeout=120)
        assert each.returncode == 0
    expected = {f"{name}-{number}" for name in "pq" for number in range(5)}
    assert set(store.collection("genes").ids) == expected
    assert verify(store).whole and not verify(store).leftovers


def test_threads_that_add_to_one_collection_in_a_bucket_lose_nothing():
    store = create_store(f"memory://{uuid.uuid4().hex}/s")
    store.write_collection("genes", table("a"))

    def add(name):
        for number in range(1, 5):
            while True:
                rows = store.collection("genes").ids
                try:
                    store.write_collection("genes", table(*rows, name * number))
                except CollectionConflict:
                    continue
                break

    threads = [threading.Thread(target=add, args=(name,)) for name in "pqr"]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert set(store.collection("genes").ids) == {"a", *(n * k for n in "pqr" for k in range(1, 5))}
    assert verify(store).whole


HOLD = """
import fcntl, os, sys, time
folder = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(folder, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_writer_blocks_nobody_and_a_living_one_is_named(store, monkeypatch):
    command = [sys.executable, "-c", HOLD, str(store.folder / "collections")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        monkeypatch.setattr(collection_writing, "WAIT_SECONDS", 0.05)
        with pytest.raises(InUse, match="collections"):
            store.write_collection("genes", table("a", "bb", "ccc", "dddd"))
        assert store.collection("genes").ids == ["a", "bb", "ccc"]  # reading needs no lock
        holder.send_signal(signal.SIGKILL)
    assert store.write_collection("genes", table("a", "bb", "ccc", "dddd"))
    assert verify(store).whole


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_to(store, monkeypatch, number):
    """EBADF: network shares lock what is open for writing alone, so a file and not a folder."""
    flock, locked = fcntl.flock, []

    def refuse(handle, how):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir() or number != errno.EBADF:
            raise OSError(number, os.strerror(number))
        locked.append(path.name)
        flock(handle, how)

    monkeypatch.setattr(collection_writing.fcntl, "flock", refuse)
    assert store.write_collection("genes", table("a", "bb", "ccc", "dddd"))
    assert verify(store).whole
    assert locked == ([".lock"] if number == errno.EBADF else [])


def test_an_answer_that_is_lost_is_no_failure(monkeypatch):
    store = create_store(f"memory://{uuid.uuid4().hex}/s")
    put = ObjectPath._put

    def put_and_lose(self, content, mode):
        put(self, content, mode)
        if self.name == "genes.json":
            raise WriteFailed("the connection broke.", "Try again.")

    monkeypatch.setattr(ObjectPath, "_put", put_and_lose)
    assert store.write_collection("genes", table("a"))
    assert store.write_collection("genes", table("a", "bb"))
    assert verify(store).whole and not verify(store).leftovers


HOSTILE = ["a b.json", "..parquet", "ü.parquet", "x" * 101 + ".json", f"y.{0:032x}.json", "-.json"]


def test_names_that_no_collection_can_have_are_told_and_set_aside(store, tmp_path):
    folder = store.folder / "collections"
    whole = files_of(store)[1].read_bytes()
    for name in HOSTILE:
        (folder / name).write_bytes(whole)
    (folder / "notes.txt").write_text("mine")
    visible = [name for name in HOSTILE if not name.startswith(".")]
    report = verify(store)
    assert store.collections() == ["genes", "other"]
    assert {each.where for each in report.problems} == {f"collections/{name}" for name in visible}
    assert "collections/notes.txt" in report.leftovers
    merged = merge([store], tmp_path / "all")
    assert merged.collections == ["genes", "other"]
    assert len(repair(store).collections_quarantined) == len(visible)
    assert verify(store).whole and (folder / "notes.txt").exists()
    assert len(collect_garbage(store, quarantine=True)) == 2 * len(visible)
    for name in ("..", "../store", "genes/../other", "", "."):
        with pytest.raises(MissingCollection):
            store.collection(name)


@pytest.mark.parametrize("what", ["file", "link"])
def test_something_in_the_place_of_the_folder_is_damage(store, tmp_path, what):
    folder = store.folder / "collections"
    folder.rename(tmp_path / "outside")
    if what == "file":
        folder.write_text("x")
    else:
        folder.symlink_to(tmp_path / "outside")
    with pytest.raises(DamagedSegment, match="collections is damaged"):
        store.collections()
    (problem,) = verify(store).problems
    assert problem.where == "collections"
    assert repair(store).collections_quarantined and verify(store).whole
    assert len(list((tmp_path / "outside").iterdir())) == 4  # untouched


def test_a_merge_names_the_damaged_collection_and_copies_nothing(store, tmp_path):
    document, _ = files_of(store)
    document.write_bytes(b"{}")
    with pytest.raises(DamagedSegment, match=rf"{store.folder}.*genes\.json"):
        merge([store], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_damaged_collection_hides_no_other_from_the_commands(store):
    document, _ = files_of(store)
    document.write_bytes(b"{}")
    run = CliRunner().invoke
    listed = run(app, ["ls", str(store.folder), "--json"])
    assert (listed.exit_code, [row["name"] for row in json.loads(listed.stdout)]) == (1, ["other"])
    assert "genes.json" in listed.stderr
    held = run(app, ["info", str(store.folder), "--json"])
    assert (held.exit_code, [row["name"] for row in json.loads(held.stdout)["damaged"]]) == (
        1,
        ["genes"],
    )
    told = run(app, ["verify", str(store.folder)])
    assert told.exit_code == 1 and "collections/genes.json" in told.stdout
    mended = run(app, ["repair", str(store.folder)])
    assert (mended.exit_code, mended.stdout) == (0, "collections/genes.json\n")
    assert run(app, ["ls", str(store.folder)]).exit_code == 0


def test_a_sample_checks_the_whole_digest_too(store):
    _, path = files_of(store)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not verify(store, sample=1).whole
    assert check_collection(store.folder, "other") == []
    assert check_collections(store.folder).names == ["genes", "other"]
