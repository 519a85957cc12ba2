"""Files for others: what is exported is read by h5py, numpy, pyarrow and the real readers alike."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from typer.testing import CliRunner

from embedstore import Recipe, Store, create_store, open_store
from embedstore.backbones.backbone import Embedded
from embedstore.cli import app
from embedstore.errors import (
    BadInput,
    CollectionConflict,
    DamagedSegment,
    MissingCollection,
    MissingEmbedding,
)
from embedstore.records import Record
from embedstore.store.collection import Collection, key_of, make_table
from embedstore.store.interchange import (
    ExportConfig,
    ImportConfig,
    export_file,
    import_file,
    rows,
    sequence_hash,
)
from embedstore.store.segment import TOKENS_SHARD, SegmentWriter

WIDTH = 6
PROTEINS = {"P69905": "MVLSPADKTN", "P68871": "MVHLTPEEKSAV", "twin": "MVLSPADKTN", "Q1": "MK"}
"""Two ids share a sequence."""
BIOTRAINER = ExportConfig(format="h5")
IDS = ExportConfig(format="h5", layout="ids")
PROTSPACE = ExportConfig(format="h5", layout="protspace", pooled=True)


def collection_of(sequences: dict[str, str], molecule: str = "protein", name: str = "all"):
    records = [Record(each, text, molecule) for each, text in sequences.items()]
    return Collection(name, make_table(records, pa.table({})))


def make_store(
    folder: Path,
    sequences: dict[str, str] = PROTEINS,
    *,
    width: int = WIDTH,
    store_dtype: str = "float16",
    left_out: tuple[str, ...] = (),
) -> Store:
    """A store with a random matrix for each different sequence, in one segment."""
    recipe = Recipe(
        backbone="esm2-8m", view="protein", width=width, weights="sha256:0", store_dtype=store_dtype
    )
    store, collection = create_store(folder), collection_of(sequences)
    store.write_recipe(recipe)
    store.write_collection("all", collection.table)
    rng = np.random.default_rng(0)
    done = set()
    with SegmentWriter(store.recipe_folder(recipe.name), recipe) as writer:
        for (name, text), key in zip(sequences.items(), collection.keys("protein"), strict=True):
            if key in done or name in left_out:
                continue
            done.add(key)
            tokens = rng.standard_normal((len(text), width)).astype(store_dtype)
            mean = tokens.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
            lengths, finite = np.array([len(text)], np.int64), np.array([True])
            writer.append([key], Embedded(tokens, lengths, mean, None, finite))
        writer.publish({})
    return store


def write_file(path: Path, arrays: dict[str, np.ndarray], original_id: bool = False) -> Path:
    """An HDF5 file as biotrainer and bio_embeddings write it: gzip, chunks."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            data = file.create_dataset(name, data=array, compression="gzip", chunks=True)
            if original_id:
                data.attrs["original_id"] = f"was {name}"
    return path


def matrices(sequences: dict[str, str] = PROTEINS, dtype: str = "float32", extra: int = 0):
    rng = np.random.default_rng(1)
    return {
        name: rng.standard_normal((len(text) + extra, WIDTH)).astype(dtype)
        for name, text in sequences.items()
    }


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


# HDF5 out, read with h5py alone


def test_biotrainers_layout_has_one_data_set_a_sequence_under_its_hash(tmp_path):
    store = make_store(tmp_path / "s")
    report = export_file(store, "esm2-8m", tmp_path / "out.h5", BIOTRAINER)
    assert (report.records, report.distinct, report.missing) == (4, 3, 0)
    with h5py.File(tmp_path / "out.h5") as file:
        assert len(file) == 3
        for name, sequence in PROTEINS.items():
            # biotrainer_core.functions.hashing.calculate_sequence_hash
            key = hashlib.sha256(f"{sequence}_{len(sequence)}".encode()).hexdigest()
            np.testing.assert_array_equal(file[key][:], store.recipe("esm2-8m").get(name))
            assert file[key].dtype == np.float16
            first = "P69905" if name == "twin" else name
            assert file[key].attrs["original_id"] == first
            assert file[key].attrs["sequence_hash"] == key


@pytest.mark.parametrize("pooled", [False, True])
def test_the_id_layout_is_read_as_uniprots_files_are(tmp_path, pooled):
    store = make_store(tmp_path / "s")
    config = ExportConfig(format="h5", layout="ids", pooled=pooled)
    export_file(store, "esm2-8m", tmp_path / "out.h5", config)
    reader = store.recipe("esm2-8m")
    with h5py.File(tmp_path / "out.h5") as file:  # the loop of UniProt's help page
        assert len(file.items()) == len(PROTEINS)
        for sequence_id, embedding in file.items():
            array = np.array(embedding)
            key = store.find_key(sequence_id, "protein")
            expected = reader.means([key])[0] if pooled else reader.get(sequence_id)
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == (np.float32 if pooled else np.float16)


def test_ids_of_one_sequence_share_its_bytes(tmp_path):
    many = {f"id-{number}": "MVLSPADKTN" * 20 for number in range(500)}
    store = make_store(tmp_path / "s", many)
    report = export_file(store, "esm2-8m", tmp_path / "out.h5", IDS)
    assert (report.records, report.distinct) == (500, 1)
    assert report.bytes < 500 * 200 * WIDTH * 2 / 4
    with h5py.File(tmp_path / "out.h5") as file:
        assert len(file) == 500
        np.testing.assert_array_equal(file["id-0"][:], file["id-499"][:])


def test_the_file_says_which_recipe_and_model_it_is_of(tmp_path):
    store = make_store(tmp_path / "s")
    for config in (BIOTRAINER, IDS, PROTSPACE):
        export_file(store, "esm2-8m", tmp_path / "out.h5", config)
        with h5py.File(tmp_path / "out.h5") as file:
            assert file.attrs["model_name"] == "esm2-8m"
            assert json.loads(file.attrs["recipe"]) == store.find_recipe("esm2-8m").document


def test_nucleotides_are_hashed_as_the_backbone_reads_them(tmp_path, genes):
    from embedstore.backbones.load import BackboneConfig, prepare
    from embedstore.build import BuildConfig, build

    store = create_store(tmp_path / "s")
    for backbone in ("one-hot-dna", "one-hot-protein"):
        config = BuildConfig(collection="genes", quiet=True)
        build(store, genes, prepare(BackboneConfig(backbone=backbone)), config)
        export_file(store, backbone, tmp_path / f"{backbone}.h5", BIOTRAINER)
    dna = genes.rows[0].sequence.replace("U", "T")
    with h5py.File(tmp_path / "one-hot-dna.h5") as file:
        assert file[sequence_hash(dna)].shape == (len(dna), 4)
        assert len(file) == 40
    with h5py.File(tmp_path / "one-hot-protein.h5") as file:  # two pairs share a protein
        assert len(file) == 38


# pooled tables


def test_npz_holds_ids_vectors_and_recipe_without_pickle(tmp_path):
    store = make_store(tmp_path / "s")
    export_file(store, "esm2-8m", tmp_path / "o.npz", ExportConfig(format="npz", pooled=True))
    reader = store.recipe("esm2-8m")
    with np.load(tmp_path / "o.npz", allow_pickle=False) as file:
        assert file["ids"].tolist() == list(PROTEINS)
        assert file["embeddings"].dtype == np.float32
        keys = store.collection("all").keys("protein")
        np.testing.assert_array_equal(file["embeddings"], reader.means(keys))
        assert json.loads(str(file["recipe"])) == reader.recipe.document


def test_parquet_holds_ids_keys_and_vectors_of_fixed_size(tmp_path):
    store = make_store(tmp_path / "s")
    config = ExportConfig(format="parquet", pooled=True)
    export_file(store, "esm2-8m", tmp_path / "o.parquet", config)
    reader, keys = store.recipe("esm2-8m"), store.collection("all").keys("protein")
    table = parquet.read_table(tmp_path / "o.parquet")
    assert table.column("id").to_pylist() == list(PROTEINS)
    assert table.column("key").to_pylist() == keys
    assert table.schema.field("embedding").type == pa.list_(
        pa.field("element", pa.float32()), WIDTH
    )
    vectors = np.array(table.column("embedding").to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, reader.means(keys))
    assert json.loads(table.schema.metadata[b"recipe"]) == reader.recipe.document


def test_batches_of_any_size_give_the_same_tables(tmp_path, monkeypatch):
    store = make_store(tmp_path / "s")
    for size in (1, 30, 1 << 20):
        monkeypatch.setattr(rows, "BATCH_BYTES", size)
        for kind in ("npz", "parquet", "h5"):
            config = ExportConfig(format=kind, pooled=True)
            export_file(store, "esm2-8m", tmp_path / f"{size}.{kind}", config)
    tables = [parquet.read_table(tmp_path / f"{size}.parquet") for size in (1, 30, 1 << 20)]
    assert tables[0].equals(tables[1])
    assert tables[1].equals(tables[2])
    arrays = [np.load(tmp_path / f"{size}.npz")["embeddings"] for size in (1, 30, 1 << 20)]
    np.testing.assert_array_equal(arrays[0], arrays[1])
    np.testing.assert_array_equal(arrays[1], arrays[2])


# round trips


@pytest.mark.parametrize("config", [BIOTRAINER, IDS], ids=["biotrainer", "ids"])
@pytest.mark.parametrize("store_dtype", ["float16", "float32"])
def test_what_was_exported_is_imported_byte_for_byte(tmp_path, config, store_dtype):
    store = make_store(tmp_path / "s", store_dtype=store_dtype)
    export_file(store, "esm2-8m", tmp_path / "out.h5", config)
    other = create_store(tmp_path / "other")
    options = ImportConfig(backbone="back", store_dtype=store_dtype)
    report = import_file(other, tmp_path / "out.h5", store.collection("all"), options)
    assert (report.imported, report.unknown, report.complete) == (3, 0, True)
    ours, theirs = store.recipe("esm2-8m"), other.recipe("back")
    assert theirs.keys() == ours.keys()
    for key in store.collection("all").keys("protein"):
        assert theirs.get(key).tobytes() == ours.get(key).tobytes()
    np.testing.assert_array_equal(theirs.means(ours.keys()), ours.means(ours.keys()))


SLASHES = ["a/b", "a/b/c", "a", "/a", "a/", ".", "..", "./a", "100%", "sp|P1|ä", "β b"]


@pytest.mark.parametrize("config", [BIOTRAINER, IDS], ids=["biotrainer", "ids"])
def test_ids_with_slashes_make_the_round_trip(tmp_path, config):
    sequences = {name: "M" + "K" * number for number, name in enumerate(SLASHES)}
    store = make_store(tmp_path / "s", sequences)
    export_file(store, "esm2-8m", tmp_path / "out.h5", config)
    with h5py.File(tmp_path / "out.h5") as file:
        assert all(isinstance(item, h5py.Dataset) for item in file.values())  # no groups
        assert {item.attrs["original_id"] for item in file.values()} == set(SLASHES)
        assert ("a%2Fb" in file) == (config is IDS)
    other = create_store(tmp_path / "other")
    import_file(other, tmp_path / "out.h5", collection_of(sequences), ImportConfig(backbone="b"))
    for name in SLASHES:
        ours, theirs = store.recipe("esm2-8m").get(name), other.recipe("b").get(name)
        assert ours.tobytes() == theirs.tobytes()


def test_two_ids_never_share_a_name(tmp_path):
    store = make_store(tmp_path / "s", {"a/b": "MK", "a%2Fb": "MKK"})
    with pytest.raises(BadInput, match=r"'a/b' and 'a%2Fb' would have one name"):
        export_file(store, "esm2-8m", tmp_path / "out.h5", IDS)
    assert list(tmp_path.glob("*out*")) == []
    assert export_file(store, "esm2-8m", tmp_path / "out.h5", BIOTRAINER).records == 2


# what goes wrong on the way out


def test_records_without_an_embedding_are_counted_and_exit_3(tmp_path):
    make_store(tmp_path / "s", left_out=("Q1",))
    words = ["export", tmp_path / "s", "--backbone", "esm2-8m", "--json", "-o", tmp_path / "o.h5"]
    done = run(*words)
    assert done.exit_code == 3
    assert "1 records have no embedding" in done.stderr
    assert json.loads(done.stdout)["missing"] == 1
    with h5py.File(tmp_path / "o.h5") as file:
        assert len(file) == 2


def test_nothing_to_export_is_an_error(tmp_path):
    store = make_store(tmp_path / "s", left_out=tuple(PROTEINS))
    with pytest.raises(MissingEmbedding, match="None of the 4 records"):
        export_file(store, "esm2-8m", tmp_path / "o.h5", IDS)
    (store.folder / "collections/all.json").unlink()
    with pytest.raises(MissingCollection, match="no collection"):
        export_file(store, "esm2-8m", tmp_path / "o.h5", IDS)
    assert not (tmp_path / "o.h5").exists()


def test_all_collections_are_exported_unless_they_disagree(tmp_path):
    store = make_store(tmp_path / "s")
    store.write_collection("some", collection_of({"Q1": "MK", "new": "MK"}).table)
    assert export_file(store, "esm2-8m", tmp_path / "o.h5", IDS).records == 5
    assert export_file(store, "esm2-8m", tmp_path / "o.h5", IDS, "some").records == 2
    store.write_collection("other", collection_of({"Q1": "MKK"}).table)
    with pytest.raises(BadInput, match="'Q1' stands for different sequences"):
        export_file(store, "esm2-8m", tmp_path / "o.h5", IDS)
    assert export_file(store, "esm2-8m", tmp_path / "o.h5", IDS, "some").records == 2


def test_damage_is_found_and_the_older_file_stays(tmp_path):
    store = make_store(tmp_path / "s")
    (tmp_path / "o.h5").write_bytes(b"older")
    shard = store.segment_folders(store.recipe("esm2-8m").name)[0] / TOKENS_SHARD
    content = bytearray(shard.read_bytes())
    content[3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedSegment, match="checksum"):
        export_file(store, "esm2-8m", tmp_path / "o.h5", IDS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.h5", "s"]
    assert (tmp_path / "o.h5").read_bytes() == b"older"


def test_a_killed_export_leaves_no_file_of_that_name(tmp_path):
    make_store(tmp_path / "s")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from embedstore import open_store\n"
        "from embedstore.store import RecipeReader\n"
        "from embedstore.store.interchange import ExportConfig, export_file, rows\n"
        "rows.BATCH_BYTES, whole = 1, RecipeReader.batch\n"
        "def dies(reader, keys, left=[1]):\n"
        "    left.pop() if left else os._exit(9)\n"
        "    return whole(reader, keys)\n"
        "RecipeReader.batch = dies\n"
        "export_file(open_store('s'), 'esm2-8m', Path('o.h5'), ExportConfig(format='h5'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert done.returncode == 9
    assert not (tmp_path / "o.h5").exists()
    assert [path.suffix for path in tmp_path.glob(".o.h5.*")] == [".draft"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"format": "csv"}, "--format csv is unknown"),
        ({"format": "h5", "layout": "x"}, "--layout x is unknown"),
        ({"format": "npz", "pooled": True, "layout": "ids"}, "npz has one layout"),
        ({"format": "npz"}, "npz holds one vector"),
        ({"format": "parquet"}, "parquet holds one vector"),
        ({"format": "h5", "layout": "protspace"}, "protspace holds one vector"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, problem):
    with pytest.raises(BadInput, match=problem):
        ExportConfig(**options)


# what others wrote


def test_a_file_by_biotrainer_is_imported_by_the_hash_of_the_sequence(tmp_path):
    arrays = {sequence_hash(PROTEINS[name]): array for name, array in matrices().items()}
    path = write_file(tmp_path / "in.h5", arrays, original_id=True)
    store = create_store(tmp_path / "s")
    report = import_file(store, path, collection_of(PROTEINS), ImportConfig(backbone="prott5"))
    assert (report.data_sets, report.imported, report.failures) == (3, 3, {})
    reader = store.recipe("prott5")
    for name, text in PROTEINS.items():
        expected = arrays[sequence_hash(text)].astype(np.float16)
        np.testing.assert_array_equal(reader.get(name), expected)
    assert list(reader.recipe.weights.partition(":sha256:")) == [
        "import",
        ":sha256:",
        hashlib.sha256(path.read_bytes()).hexdigest(),
    ]
    assert (reader.recipe.compute_dtype, reader.recipe.view) == ("unknown", "protein")
    with pytest.raises(MissingEmbedding, match="embedstore import"):
        reader.get("0" * 32)


def test_float32_is_kept_where_asked_for(tmp_path):
    path = write_file(tmp_path / "in.h5", matrices(dtype="float64"))
    store = create_store(tmp_path / "s")
    config = ImportConfig(backbone="prott5", store_dtype="float32")
    import_file(store, path, collection_of(PROTEINS), config)
    kept = store.recipe("prott5").get("Q1")
    np.testing.assert_array_equal(kept, matrices(dtype="float64")["Q1"].astype(np.float32))


def test_uniprots_accessions_find_the_records_of_its_fasta(tmp_path):
    path = write_file(tmp_path / "per-residue.h5", matrices({"P69905": "MVLSPADKTN", "X": "M"}))
    fasta = tmp_path / "human.fasta"
    fasta.write_text(">sp|P69905|HBA_HUMAN\nMVLSPADKTN\n")
    words = ["--backbone", "prott5", "--fasta", fasta, "--molecule", "protein", "--json"]
    done = run("import", path, "--store", tmp_path / "s", *words)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["imported"], report["unknown"], report["collection"]) == (1, 1, "human")
    assert open_store(tmp_path / "s").recipe("prott5").get("sp|P69905|HBA_HUMAN").shape == (10, 6)


def test_bio_embeddings_renames_ids_and_says_the_original(tmp_path):
    with h5py.File(tmp_path / "in.h5", "w") as file:
        for number, (name, array) in enumerate(matrices().items()):
            file.create_dataset(str(number), data=array).attrs["original_id"] = name
    sequences = {**PROTEINS, "0": "MKK"}  # an id that looks like one of the running numbers
    store = create_store(tmp_path / "s")
    report = import_file(
        store, tmp_path / "in.h5", collection_of(sequences), ImportConfig(backbone="seqvec")
    )
    assert (report.imported, report.failures) == (3, {"not-in-file": 1})
    expected = matrices()["Q1"].astype(np.float16)
    np.testing.assert_array_equal(store.recipe("seqvec").get("Q1"), expected)


def test_data_sets_in_groups_are_the_ids_with_slashes(tmp_path):
    path = write_file(tmp_path / "in.h5", {"a/b": np.ones((2, 3)), "a/c/d": np.ones((3, 3))})
    with h5py.File(path, "a") as file:
        file["a/self"] = h5py.SoftLink("/a")  # would lead in a circle
    store = create_store(tmp_path / "s")
    sequences = collection_of({"a/b": "MK", "a/c/d": "MKK"})
    report = import_file(store, path, sequences, ImportConfig(backbone="x"))
    assert (report.data_sets, report.imported) == (2, 2)


def test_codons_are_the_rows_of_a_cds_view(tmp_path):
    path = write_file(tmp_path / "in.h5", {"g": np.ones((3, 3))})
    store, sequences = create_store(tmp_path / "s"), collection_of({"g": "AUGGCUUAA"}, "mrna")
    import_file(store, path, sequences, ImportConfig(backbone="calm", view="cds"))
    assert store.recipe("calm").get("g").shape == (3, 3)


def test_a_changed_sequence_never_gets_the_old_embedding(tmp_path):
    store = make_store(tmp_path / "s")
    for config in (BIOTRAINER, IDS):
        export_file(store, "esm2-8m", tmp_path / "out.h5", config)
        changed = collection_of({**PROTEINS, "Q1": "MR"})
        other = create_store(tmp_path / f"other-{config.layout}")
        report = import_file(other, tmp_path / "out.h5", changed, ImportConfig(backbone="x"))
        assert (report.unknown, report.failures) == (1, {"not-in-file": 1})


def test_records_without_a_data_set_are_in_the_failures_file_and_exit_3(tmp_path):
    sequences = {"good": "AUGGCUUAA", "absent": "AUGGCUGCUUAA", "broken": "AUGG"}
    store = create_store(tmp_path / "s")
    store.write_collection("genes", collection_of(sequences, "mrna").table)
    path = write_file(tmp_path / "in.h5", {"good": np.ones((2, 3)), "else": np.ones((9, 9))})
    words = ["--backbone", "x", "--collection", "genes", "--view", "protein", "--json"]
    done = run("import", path, "--store", tmp_path / "s", *words)
    assert done.exit_code == 3
    report = json.loads(done.stdout)
    assert report["failures"] == {"length-not-codons": 1, "not-in-file": 1}
    assert report["unknown"] == 1
    folder = store.recipe_folder(report["recipe"])
    lines = (folder / "failures" / report["failures_file"]).read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["broken", "absent"]


def test_importing_again_stores_nothing_new_and_other_files_are_other_recipes(tmp_path):
    path = write_file(tmp_path / "in.h5", matrices())
    store, config = create_store(tmp_path / "s"), ImportConfig(backbone="x")
    first = import_file(store, path, collection_of(PROTEINS), config)
    before = files_of(tmp_path / "s" / "recipes" / first.recipe / "segments")
    again = import_file(store, path, collection_of(PROTEINS), config)
    assert (again.recipe, again.imported, again.present) == (first.recipe, 0, 3)
    assert files_of(tmp_path / "s" / "recipes" / first.recipe / "segments") == before
    other = write_file(tmp_path / "other.h5", matrices(dtype="float16"))
    assert import_file(store, other, collection_of(PROTEINS), config).recipe != first.recipe


def test_segments_are_closed_at_their_size(tmp_path):
    path = write_file(tmp_path / "in.h5", matrices())
    store = create_store(tmp_path / "s")
    limit = 12 * WIDTH * 2  # 10 and 2 rows fit into one segment, 12 rows into another
    config = ImportConfig(backbone="x", segment_bytes=limit)
    report = import_file(store, path, collection_of(PROTEINS), config)
    reader = store.recipe("x")
    assert report.segments == len(reader.segments)
    assert all(segment.document.tokens <= 12 for segment in reader.segments)
    assert import_file(
        store, path, collection_of(PROTEINS), ImportConfig(backbone="y", segment_bytes=1)
    ).segments == len(set(PROTEINS.values()))


def test_a_stopped_import_goes_on_where_it_stopped(tmp_path, monkeypatch):
    path = write_file(tmp_path / "in.h5", matrices())
    store = create_store(tmp_path / "s")
    config = ImportConfig(backbone="x", segment_bytes=1)
    whole, left = SegmentWriter.publish, [1, 2]

    def stopped(writer, provenance):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return whole(writer, provenance)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SegmentWriter, "publish", stopped)
        import_file(store, path, collection_of(PROTEINS), config)
    assert len(store.recipe("x")) == 2  # each whole
    report = import_file(store, path, collection_of(PROTEINS), config)
    assert (report.present, report.imported) == (2, 1)


def with_value(value: float, dtype: str = "float32"):
    arrays = matrices(dtype=dtype)
    arrays["Q1"][1, 2] = value
    return arrays


REFUSED = {
    "one special token": (matrices(extra=1), "'P68871' .* 13 rows, and its record 12: special"),
    "two special tokens": (matrices(extra=2), "special tokens are still in there"),
    "other lengths": (matrices(extra=3), "15 rows, and its record's protein view 12"),
    "pooled": ({"Q1": np.ones(5)}, r"'Q1' .* \(5,\): one vector a sequence"),
    "cubes": ({"Q1": np.ones((1, 2, 5))}, "no matrix"),
    "no column": ({"Q1": np.ones((2, 0))}, "is 0 wide"),
    "whole numbers": ({"Q1": np.ones((2, 5), np.int64)}, "holds int64"),
    "widths": ({"P69905": np.ones((10, 5)), "Q1": np.ones((2, 4))}, "'Q1' .* is 4 wide, .* 5"),
    "strangers": ({"unknown": np.ones((2, 5))}, "None of the 1 data sets"),
    "empty": ({}, "None of the 0 data sets"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_the_records_embedding_is_refused_and_nothing_is_written(tmp_path, name):
    arrays, problem = REFUSED[name]
    with h5py.File(tmp_path / "in.h5", "w") as file:
        for key, array in arrays.items():
            file[key] = array
    make_store(tmp_path / "s")
    before = files_of(tmp_path / "s")
    words = ["--store", tmp_path / "s", "--backbone", "x", "--collection", "all"]
    done = run("import", tmp_path / "in.h5", *words)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    with pytest.raises(BadInput, match=problem):
        import_file(
            open_store(tmp_path / "s"),
            tmp_path / "in.h5",
            collection_of(PROTEINS),
            ImportConfig(backbone="x"),
        )
    assert files_of(tmp_path / "s") == before


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_a_value_that_is_not_finite_is_a_failure_of_its_record_alone(value, tmp_path):
    path = write_file(tmp_path / "in.h5", with_value(value))
    make_store(tmp_path / "s")
    words = ["--store", tmp_path / "s", "--backbone", "x", "--collection", "all", "--json"]
    good = len(set(PROTEINS.values())) - 1
    for present in (0, good):  # a second import says the same
        done = run("import", path, *words)
        assert done.exit_code == 3, done.output
        report = json.loads(done.stdout)
        assert report["failures"]["not-finite"] == 1
        assert (report["present"], report["imported"]) == (present, good - present)
        files = (tmp_path / "s").glob(f"recipes/x-*/failures/{report['failures_file']}")
        rows = [json.loads(line) for line in next(files).read_text().splitlines()]
        (row,) = (row for row in rows if row["reason"] == "not-finite")
        assert row["id"] == "Q1" and "not finite" in row["detail"]
        assert ("float32" in row["detail"]) == (value == 1e5)
    reader = open_store(tmp_path / "s").recipe("x")
    assert np.isfinite(reader.get("P68871")).all()
    with pytest.raises(MissingEmbedding):
        reader.get("Q1")


def test_an_import_of_nothing_finite_stores_nothing_and_names_all(tmp_path):
    arrays = {name: np.full_like(rows, np.nan) for name, rows in matrices().items()}
    path = write_file(tmp_path / "in.h5", arrays)
    store = create_store(tmp_path / "s")
    report = import_file(store, path, collection_of(PROTEINS), ImportConfig(backbone="x"))
    assert report.failures == {"not-finite": len(PROTEINS)}
    assert (report.imported, report.segments) == (0, 0)


def test_a_second_data_set_of_the_sequence_serves_where_the_first_is_not_finite(tmp_path):
    arrays = matrices()
    twin = arrays["twin"]
    arrays["P69905"][0, 0] = np.nan
    with h5py.File(tmp_path / "in.h5", "w") as file:
        for name, rows in arrays.items():
            file[name] = rows
    store = create_store(tmp_path / "s")
    config = ImportConfig(backbone="x")
    report = import_file(store, tmp_path / "in.h5", collection_of(PROTEINS), config)
    assert report.complete
    np.testing.assert_array_equal(
        store.recipe("x").batch([key_of(PROTEINS["twin"])]).tokens, twin.astype(np.float16)
    )


def test_bad_records_of_the_sequences_are_failures_of_an_import_too(tmp_path):
    path = write_file(tmp_path / "in.h5", matrices())
    lines = "".join(f">{name}\n{text}\n" for name, text in PROTEINS.items())
    (tmp_path / "p.fasta").write_text(lines + ">stop\nMK*K\n")
    words = ["--store", tmp_path / "s", "--backbone", "x", "--fasta", tmp_path / "p.fasta"]
    words += ["--molecule", "protein", "--json"]
    assert run("import", path, *words).exit_code == 1
    done = run("import", path, *words, "--bad-records", "skip")
    assert done.exit_code == 3, done.output
    assert json.loads(done.stdout)["failures"] == {"inner-stop": 1}


def test_what_float16_cannot_hold_float32_can(tmp_path):
    path = write_file(tmp_path / "in.h5", with_value(1e5))
    store = create_store(tmp_path / "s")
    config = ImportConfig(backbone="x", store_dtype="float32")
    assert import_file(store, path, collection_of(PROTEINS), config).complete


def test_files_that_are_no_whole_hdf5_are_refused(tmp_path):
    store, config = create_store(tmp_path / "s"), ImportConfig(backbone="x")
    with pytest.raises(BadInput, match="There is no file"):
        import_file(store, tmp_path / "in.h5", collection_of(PROTEINS), config)
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(BadInput, match="cannot be read as HDF5"):
        import_file(store, tmp_path / "text.h5", collection_of(PROTEINS), config)
    content = write_file(tmp_path / "in.h5", matrices()).read_bytes()
    (tmp_path / "in.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInput, match="cannot be read as HDF5"):
        import_file(store, tmp_path / "in.h5", collection_of(PROTEINS), config)
    # a chunk of compressed rows that was overwritten
    at = content.rindex(b"\x78\x5e") if b"\x78\x5e" in content else content.rindex(b"\x78\x01")
    (tmp_path / "in.h5").write_bytes(content[:at] + bytes(40) + content[at + 40 :])
    with pytest.raises(BadInput, match="cannot be read"):
        import_file(store, tmp_path / "in.h5", collection_of(PROTEINS), config)
    assert not (tmp_path / "s").exists()


def test_other_records_under_the_collections_name_are_refused(tmp_path):
    path = write_file(tmp_path / "in.h5", {"Q1": np.ones((3, 4))})
    store = make_store(tmp_path / "s")
    before = files_of(tmp_path / "s")
    with pytest.raises(CollectionConflict):
        import_file(store, path, collection_of({"Q1": "MKK"}), ImportConfig(backbone="x"))
    assert files_of(tmp_path / "s") == before
    config = ImportConfig(backbone="x", replace=True)
    assert import_file(store, path, collection_of({"Q1": "MKK"}), config).complete


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"backbone": "esm2-8m"}, "Give --backbone another name, such as esm2-8m-imported"),
        ({"backbone": "a/b"}, "cannot name a backbone"),
        ({"backbone": "x", "view": "rna"}, "--view rna is unknown"),
        ({"backbone": "x", "store_dtype": "bfloat16"}, "--store-dtype bfloat16 is unknown"),
    ],
)
def test_import_options_that_do_not_fit_are_refused(options, problem):
    with pytest.raises(BadInput, match=problem):
        ImportConfig(**options)


def test_the_view_must_be_told_where_molecules_are_mixed(tmp_path):
    path = write_file(tmp_path / "in.h5", {"p": np.ones((2, 4))})
    records = [Record("p", "MK", "protein"), Record("r", "AUGAAAUAA", "mrna")]
    mixed = Collection("mixed", make_table(records, pa.table({})))
    store = create_store(tmp_path / "s")
    with pytest.raises(BadInput, match="holds mrna and protein"):
        import_file(store, path, mixed, ImportConfig(backbone="x"))
    report = import_file(store, path, mixed, ImportConfig(backbone="x", view="protein"))
    assert report.complete  # the mRNA has the same protein


def test_sequences_come_from_one_place(tmp_path):
    for extra in ([], ["--collection", "a", "--fasta", "b.fasta"]):
        words = ["--store", tmp_path / "s", "--backbone", "x", *extra]
        done = run("import", tmp_path / "in.h5", *words)
        assert done.exit_code == 1
        assert "either --collection or --fasta" in done.stderr


# memory


MEASURE = """
import sys
from pathlib import Path
import embedstore.store.interchange as interchange
from embedstore import create_store, open_store

def peak():  # of this process alone: ru_maxrss starts at the parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10

store = open_store("s")
collection = store.collection("all")
list(map(str, collection.records()))
open_store("small").recipe("esm2-8m").batch(open_store("small").recipe("esm2-8m").keys())
before = peak()
{work}
print(peak() - before)
"""
EXPORTING = (
    "interchange.export_file(store, 'esm2-8m', Path('o.h5'), "
    "interchange.ExportConfig(format='h5', layout='ids'))"
)
IMPORTING = (
    "interchange.import_file(create_store('t'), Path('o.h5'), collection, "
    "interchange.ImportConfig(backbone='x'))"
)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_neither_way_holds_the_file_in_memory(tmp_path):
    rng = np.random.default_rng(2)
    letters = rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), (96, 1000))
    make_store(tmp_path / "s", {f"p{n}": "".join(r) for n, r in enumerate(letters)}, width=640)
    make_store(tmp_path / "small")
    grown = []
    for work in (EXPORTING, IMPORTING):
        code = MEASURE.format(work=work)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        grown.append(int(done.stdout))
    size = (tmp_path / "o.h5").stat().st_size
    assert size > 110 << 20
    assert max(grown) < 40 << 20, grown


# the real readers, in the interpreter that has them


def read_with(code: str, folder: Path) -> dict:
    """Answer of a script in the interpreter EMBEDSTORE_READERS, which may have those packages."""
    python = os.environ.get("EMBEDSTORE_READERS", sys.executable)
    done = subprocess.run([python, "-c", code], cwd=folder, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines()
    if done.returncode and lines and lines[-1].startswith("ModuleNotFoundError"):
        pytest.skip(f"{lines[-1]}; EMBEDSTORE_READERS names a Python that has it")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SUMS = "print(json.dumps({k: [list(v.shape), float(v.sum())] for k, v in found.items()}))"


@pytest.mark.parametrize(
    "loading",
    [
        "from biotrainer.embedders import EmbeddingService\n"  # 1.x, to torch
        "found = EmbeddingService.load_embeddings('o.h5', wanted)",
        "from biotrainer_core.h5_files import read_id2emb\n"  # 2.x, to numpy
        "found = {k: v.astype(float) for k, v in read_id2emb('o.h5', set(wanted)).items()}",
    ],
    ids=["biotrainer-1", "biotrainer-core-2"],
)
def test_biotrainer_reads_our_export_by_its_own_hash(tmp_path, loading):
    store = make_store(tmp_path / "s")
    export_file(store, "esm2-8m", tmp_path / "o.h5", BIOTRAINER)
    version = "biotrainer.utilities" if "embedders" in loading else "biotrainer_core.functions"
    hashing = (
        f"import json\nfrom {version}.hashing import calculate_sequence_hash\n"
        f"wanted = [calculate_sequence_hash(text) for text in {list(PROTEINS.values())}]\n"
    )
    found = read_with(f"{hashing}{loading}\n{SUMS}", tmp_path)
    assert len(found) == 3
    for name, text in PROTEINS.items():
        ours = store.recipe("esm2-8m").get(name)
        shape, total = found[sequence_hash(text)]
        assert tuple(shape) == ours.shape
        assert total == pytest.approx(float(ours.astype(float).sum()), abs=1e-4)


def test_we_read_what_biotrainer_writes(tmp_path):
    code = (
        "import json\nimport numpy as np\n"
        "from biotrainer_core.functions.hashing import calculate_sequence_hash\n"
        "from biotrainer_core.h5_files import store_embedding_to_path\n"
        f"for name, text in {PROTEINS}.items():\n"
        "    if name != 'twin':\n"
        "        rows = np.arange(len(text) * 4, dtype=np.float32).reshape(-1, 4)\n"
        "        store_embedding_to_path('in.h5', calculate_sequence_hash(text), name, rows)\n"
        "print(json.dumps({}))"
    )
    read_with(code, tmp_path)
    store = create_store(tmp_path / "s")
    report = import_file(
        store, tmp_path / "in.h5", collection_of(PROTEINS), ImportConfig(backbone="x")
    )
    assert (report.imported, report.unknown, report.complete) == (3, 0, True)
    assert store.recipe("x").get("twin")[9].tolist() == [36, 37, 38, 39]


def test_protspace_reads_our_export(tmp_path):
    store = make_store(tmp_path / "s")
    export_file(store, "esm2-8m", tmp_path / "o.h5", PROTSPACE)
    code = (
        "import json\nfrom pathlib import Path\n"
        "from protspace.data.loaders.h5 import load_h5\n"
        "found = load_h5([Path('o.h5')])\n"
        "print(json.dumps([found.name, found.headers, found.data.tolist()]))"
    )
    name, headers, data = read_with(code, tmp_path)
    assert (name, sorted(headers)) == ("esm2-8m", sorted(PROTEINS))
    keys = [store.find_key(header, "protein") for header in headers]
    np.testing.assert_array_equal(np.float32(data), store.recipe("esm2-8m").means(keys))


@pytest.mark.parametrize("config", [IDS, ExportConfig(format="npz", pooled=True)])
def test_an_export_replaces_a_link_and_never_writes_through_it(tmp_path, config):
    store = make_store(tmp_path / "s")
    (tmp_path / "other").write_text("mine")
    (tmp_path / "out").symlink_to("other")
    export_file(store, "esm2-8m", tmp_path / "out", config)
    assert (tmp_path / "other").read_text() == "mine" and not (tmp_path / "out").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "device", "folder"):
        with pytest.raises(BadInput, match=f"{name}' is a folder, a pipe or a device"):
            export_file(store, "esm2-8m", tmp_path / name, config)
