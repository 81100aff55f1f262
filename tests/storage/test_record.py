"""Records: what is read is what was written, or an error says why not."""

from pathlib import Path

import pytest
import torch

from toolkit.storage import record
from toolkit.storage.record import DamagedError, pack_record, read_field, read_record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "row.record"
    path.write_bytes(pack_record({"steps": torch.arange(3)}, {"title": "a row"}))
    return path


def test_it_is_read_as_it_was_written(path: Path) -> None:
    tensors, content = read_record(path)
    assert torch.equal(tensors["steps"], torch.arange(3))
    assert content["title"] == read_field(path, "title") == "a row"


def test_a_newer_format_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "FORMAT", record.FORMAT - 1)
    with pytest.raises(
        DamagedError, match=r"row\.record was written by a newer version .*format 1, .* up to 0.*upgrade"
    ):
        read_record(path)


@pytest.mark.parametrize("file_format", ["1", None, [2]])
def test_what_is_no_format_is_no_record(file_format: object, path: Path) -> None:
    path.write_bytes(pack_record({}, {"format": file_format}))
    with pytest.raises(DamagedError, match=r"row\.record is not a record"):
        read_record(path)


@pytest.mark.parametrize("size", [0, 10, 100, -1])
def test_a_part_of_one_is_damaged(size: int, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DamagedError, match="is corrupted: checksum mismatch"):
        read_record(path)
