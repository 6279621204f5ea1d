"""Files are whole or absent."""

import errno
import hashlib
import json
import os

import pytest
from PIL import Image

from cdtlib import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_writes_what_it_is_given(tmp_path):
    files.write_bytes(tmp_path / "deep" / "er" / "a.bin", b"\x00\x01")
    assert (tmp_path / "deep" / "er" / "a.bin").read_bytes() == b"\x00\x01"
    files.write_text(tmp_path / "a.txt", "zèbre\n")
    assert (tmp_path / "a.txt").read_bytes() == "zèbre\n".encode()
    files.write_json(tmp_path / "a.json", {"b": [1, 2.5, None], "a": "é"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"b": [1, 2.5, None], "a": "é"}
    files.write_bytes(tmp_path / "a.txt", memoryview(b"second"))
    assert (tmp_path / "a.txt").read_bytes() == b"second"
    assert names(tmp_path) == ["a.json", "a.txt", "deep"]


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_atomic_keeps_the_suffix_from_which_writers_read_the_format(tmp_path):
    with files.atomic(tmp_path / "picture.png") as temporary:
        assert temporary.parent == tmp_path
        Image.new("RGB", (2, 2)).save(temporary)
        assert not (tmp_path / "picture.png").exists()
    assert Image.open(tmp_path / "picture.png").size == (2, 2)
    assert names(tmp_path) == ["picture.png"]


def test_new_files_have_the_permissions_of_ordinary_ones(tmp_path):
    (tmp_path / "ordinary").touch()
    files.write_text(tmp_path / "ours", "x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(error), files.atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_json_refuses_nan_and_leaves_the_old_file(tmp_path):
    files.write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"fid": float("nan")})
    assert (tmp_path / "a.json").read_text() == "1\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch, number):
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")

    def full(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        files.write_bytes(path, bytes(1_234_567))
    monkeypatch.undo()
    assert caught.value.errno == number
    assert caught.value.filename == str(path)
    assert "1.235 MB needed" in str(caught.value) and "MB free" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_other_errors_pass_unchanged(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        files.write_text(tmp_path / "file" / "a.txt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_text(tmp_path / "folder", "x")
    assert names(tmp_path) == ["file", "folder"]


def test_a_folder_that_cannot_be_written_to_is_known_at_once(tmp_path):
    files.make_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write into this folder: Not a directory: .*file/folder"):
        files.make_folder(tmp_path / "file" / "folder")
