"""A download ends with the registered content under its name, or with an error and no such file."""

import os
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.datasets.checksum import checksum_of
from embedstore.datasets.download import ATTEMPTS, download
from embedstore.errors import BadChecksum, BadInput, DownloadFailed

CONTENT = random.Random(0).randbytes(300_000)


@pytest.fixture
def serving(server):
    server.content = CONTENT
    return server


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_nothing_else_is_left(serving, tmp_path):
    path = download(serving.form(), tmp_path / "new")
    assert path == tmp_path / "new" / "table.csv"
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["table.csv"]
    assert "range" not in serving.asked[0]


def test_a_connection_cut_midway_goes_on_where_it_stopped(serving, tmp_path):
    serving.cuts = [100_000, 50_000]
    assert download(serving.form(), tmp_path, pause=0).read_bytes() == CONTENT
    assert [asked.get("range") for asked in serving.asked] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
    ]
    assert serving.asked[1]["if-range"] == '"v1"'
    assert serving.sent == len(CONTENT)  # no byte came twice


def test_the_next_run_goes_on_where_one_gave_up(serving, tmp_path):
    serving.cuts = [100_000] + [0] * ATTEMPTS
    with pytest.raises(DownloadFailed, match=r"100,000 bytes are here.*same command again"):
        download(serving.form(), tmp_path, pause=0)
    assert names(tmp_path) == ["table.csv.part", "table.csv.part.etag"]
    assert len(serving.asked) == 1 + ATTEMPTS
    assert download(serving.form(), tmp_path, pause=0).read_bytes() == CONTENT
    assert serving.sent == len(CONTENT)
    assert names(tmp_path) == ["table.csv"]


def test_a_server_that_sends_everything_again_is_not_appended_to_what_is_there(serving, tmp_path):
    serving.ranges = False
    serving.cuts = [100_000]
    assert download(serving.form(), tmp_path, pause=0).read_bytes() == CONTENT
    assert serving.asked[1]["range"] == "bytes=100000-"
    assert serving.sent == 100_000 + len(CONTENT)


def test_a_file_that_changed_in_between_is_fetched_anew(serving, tmp_path):
    serving.cuts = [100_000] + [0] * ATTEMPTS
    with pytest.raises(DownloadFailed):
        download(serving.form(), tmp_path, pause=0)
    serving.content, serving.etag = CONTENT[::-1], '"v2"'  # If-Range does not hold: a whole file
    assert download(serving.form(), tmp_path, pause=0).read_bytes() == CONTENT[::-1]


def test_a_part_that_was_complete_is_not_fetched_again(serving, tmp_path):
    (tmp_path / "table.csv.part").write_bytes(CONTENT)
    assert download(serving.form(), tmp_path, pause=0).read_bytes() == CONTENT
    assert serving.sent == 0


def test_a_part_longer_than_the_file_is_thrown_away(serving, tmp_path):
    (tmp_path / "table.csv.part").write_bytes(CONTENT + b"more")
    assert download(serving.form(), tmp_path, pause=0).read_bytes() == CONTENT


@pytest.mark.parametrize("start", [b"", b"what an older, other file began with"])
def test_wrong_bytes_are_refused_by_checksum_and_removed(start, serving, tmp_path):
    (tmp_path / "table.csv.part").write_bytes(start)
    form = serving.form(b"the registered content" if not start else CONTENT)
    with pytest.raises(BadChecksum) as raised:
        download(form, tmp_path, pause=0)
    assert form.checksum in raised.value.problem
    assert raised.value.problem.count("sha256:") == 2  # the one expected and the one found
    assert names(tmp_path) == []
    if start:  # and so the next run gets it
        assert download(form, tmp_path, pause=0).read_bytes() == CONTENT


def test_a_refusal_is_said_at_once_with_what_to_do(serving, tmp_path):
    serving.status = 404
    with pytest.raises(DownloadFailed, match=r"answers 404.*--from"):
        download(serving.form(), tmp_path, pause=0)
    assert len(serving.asked) == 1


def test_a_server_in_trouble_is_asked_again_but_not_for_ever(serving, tmp_path):
    serving.status = 503
    with pytest.raises(DownloadFailed, match="answers 503"):
        download(serving.form(), tmp_path, pause=0)
    assert len(serving.asked) == ATTEMPTS


@given(content=st.binary(max_size=200))
def test_a_git_blob_checksum_is_the_id_that_git_gives(content, tmp_path_factory):
    import hashlib

    path = tmp_path_factory.mktemp("blob") / "file"
    path.write_bytes(content)
    expected = hashlib.sha1(f"blob {len(content)}".encode() + b"\0" + content).hexdigest()
    assert checksum_of(path, "git-blob") == f"git-blob:{expected}"


def test_the_empty_blob_has_the_id_known_from_git(tmp_path):
    (tmp_path / "empty").touch()  # `git hash-object -t blob /dev/null`
    assert checksum_of(tmp_path / "empty", "git-blob").endswith(
        "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    )


@pytest.mark.parametrize("name", ["table.csv.part", "table.csv.part.etag"])
@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_a_download_never_goes_through_a_link_or_a_pipe(serving, tmp_path, name, what):
    (tmp_path / "other").write_text("mine")
    path = tmp_path / name
    {
        "link": lambda: path.symlink_to("other"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[what]()
    with pytest.raises(BadInput, match=f"{name}' is no regular file"):
        download(serving.form(), tmp_path, pause=0)
    assert (tmp_path / "other").read_text() == "mine" and not serving.asked


def test_a_server_that_sends_more_than_the_file_is_not_read_to_its_end(serving, tmp_path):
    form = replace(serving.form(), size=len(CONTENT))
    serving.content = CONTENT * 400
    with pytest.raises(BadChecksum):
        download(form, tmp_path, pause=0)
    assert names(tmp_path) == []


@pytest.mark.parametrize("etag", ["a\r\nX: y", "x" * 5000, "\u00e9", ""])
def test_an_etag_that_cannot_stand_in_a_header_is_not_sent(serving, tmp_path, etag):
    (tmp_path / "table.csv.part").write_bytes(CONTENT[:10])
    (tmp_path / "table.csv.part.etag").write_text(etag, newline="")
    assert download(serving.form(), tmp_path, pause=0).read_bytes() == CONTENT
    assert "if-range" not in serving.asked[0]
