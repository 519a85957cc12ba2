"""Only regular files are opened, and none outside of its folder."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from embedstore.regular_files import check_within, open_regular, read_regular
from embedstore.store.objects import DAMAGE


def test_a_file_is_read_whole(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert read_regular(tmp_path / "x", within=tmp_path, most=3) == b"abc"
    with open_regular(tmp_path / "x") as file:
        assert os.get_blocking(file.fileno())


def test_pipes_devices_sockets_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{here}/socket")
            for name in ("pipe", "zero", "folder", "socket"):
                with pytest.raises(OSError) as caught:
                    read_regular(tmp_path / name)
                assert caught.value.errno in DAMAGE, name
    finally:
        os.close(here)


def test_a_file_larger_than_it_may_be_is_not_read(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="more than 1000") as caught:
        read_regular(tmp_path / "large", most=1000)
    assert caught.value.errno in DAMAGE


def test_a_file_of_holes_is_not_read_whole(tmp_path):
    with (tmp_path / "hollow").open("wb") as file:
        file.write(b"start")
        file.seek(1 << 40)
        file.write(b"end")
    with pytest.raises(OSError, match="were ever written") as caught:
        read_regular(tmp_path / "hollow")
    assert caught.value.errno in DAMAGE
    with (tmp_path / "small").open("wb") as file:
        file.truncate(1 << 20)
    assert read_regular(tmp_path / "small") == bytes(1 << 20)


def test_links_may_lead_anywhere_in_the_folder_and_nowhere_else(tmp_path):
    store, outside = tmp_path / "store", tmp_path / "outside"
    store.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (store / "x").write_bytes(b"x")
    (store / "inside").symlink_to("x")
    (store / "file").symlink_to(outside / "secret")
    (store / "folder").symlink_to(outside)
    (tmp_path / "store-2").mkdir()
    (tmp_path / "store-2" / "y").write_bytes(b"y")
    (store / "sibling").symlink_to(tmp_path / "store-2" / "y")
    (tmp_path / "link").symlink_to(store)
    assert read_regular(store / "inside", within=store) == b"x"
    assert read_regular(tmp_path / "link" / "x", within=tmp_path / "link") == b"x"
    check_within(store, store)
    for name in ("file", "folder/secret", "sibling", "../outside/secret"):
        with pytest.raises(OSError, match="out of its folder") as caught:
            read_regular(store / name, within=store)
        assert caught.value.errno == errno.ELOOP


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="Linux looks at a file without opening it")
def test_what_lies_outside_is_not_opened_even_for_a_moment(tmp_path, monkeypatch):
    store, outside = tmp_path / "store", tmp_path / "outside"
    store.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (store / "file").symlink_to(outside / "secret")
    (store / "folder").symlink_to(outside)
    opened, really_open = [], os.open

    def note(path, flags, *more, **named):
        handle = really_open(path, flags, *more, **named)
        if not flags & os.O_PATH:
            opened.append(path)
        return handle

    monkeypatch.setattr(os, "open", note)
    for name in ("file", "folder/secret"):
        with pytest.raises(OSError, match="out of its folder"):
            read_regular(store / name, within=store)
    assert opened == []
