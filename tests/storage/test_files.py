"""Files are replaced as a whole, on Windows too, where a file that somebody has open cannot be replaced at once."""

import os
import sys
from pathlib import Path

import pytest

from toolkit.storage import files
from toolkit.storage.files import RENAMES, write_file


@pytest.fixture
def refused(monkeypatch):
    """Let the first renames fail, as if another process had the file open; return how many were tried."""

    def refused(times: int, system: str) -> list[Path]:
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(files, "RENAME_PAUSE_S", 0.0)
        real = os.replace
        tried: list[Path] = []

        def replace(source: Path, target: Path) -> None:
            tried.append(target)
            if len(tried) <= times:
                raise PermissionError(13, "the process cannot access the file")
            real(source, target)

        monkeypatch.setattr("toolkit.storage.files.os.replace", replace)
        return tried

    return refused


def test_a_rename_is_tried_again_on_windows(tmp_path, refused):
    tried = refused(RENAMES - 1, "win32")
    write_file(tmp_path / "report.json", b"new")
    assert (tmp_path / "report.json").read_bytes() == b"new"
    assert len(tried) == RENAMES


@pytest.mark.parametrize(("system", "renames"), [("win32", RENAMES), ("linux", 1)])
def test_a_file_that_stays_open_keeps_its_content(tmp_path, refused, system, renames):
    (tmp_path / "report.json").write_bytes(b"old")
    tried = refused(RENAMES, system)
    with pytest.raises(PermissionError):
        write_file(tmp_path / "report.json", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_bytes() == b"old"
    assert len(tried) == renames


def test_a_function_writes_piece_by_piece(tmp_path):
    write_file(tmp_path / "file", lambda file: file.writelines([b"one, ", b"two"]))
    assert (tmp_path / "file").read_bytes() == b"one, two"
