"""Records: what is read is what was written, or an error says why not."""

import gc
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from toolkit.storage import record
from toolkit.storage.files import write_file
from toolkit.storage.record import DamagedError, Record, read_field, read_record
from toolkit.storage.tensor_stream import DTYPES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "row.record"
    write(path, {"steps": torch.arange(3)}, {"title": "a row"})
    return path


def write(path: Path, tensors: dict[str, Tensor], content: dict[str, object]) -> None:
    with path.open("wb") as file:
        Record(tensors, content).write(file)


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
    write(path, {}, {"format": file_format})
    with pytest.raises(DamagedError, match=r"row\.record is not a record"):
        read_record(path)


@pytest.mark.parametrize("size", [0, 10, 100, -1])
def test_a_part_of_one_is_damaged(size: int, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DamagedError, match="is corrupted: checksum mismatch"):
        read_record(path)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_it_is_safetensors_and_a_checksum(path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "matrix": torch.arange(6).to(dtype).reshape(2, 3),
        "columns": torch.arange(6).to(dtype).reshape(2, 3).t(),
        "none": torch.empty(0, 3, dtype=dtype),
        "one": torch.ones((), dtype=dtype),
        "flags": torch.tensor([True]),
    }
    write(path, tensors, {})
    by_safetensors = safetensors.torch.load(path.read_bytes()[: -record.DIGEST_BYTES])
    for stored in (by_safetensors, read_record(path)[0]):
        assert stored.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert (stored[name].dtype, stored[name].shape) == (tensor.dtype, tensor.shape)
            assert stored[name].tolist() == tensor.tolist()


def test_conjugates_and_negatives_are_written_as_their_values(path: Path) -> None:
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    lazy = {"conjugates": numbers.conj(), "negatives": numbers.conj().imag, "negative": numbers[:1].conj().imag}
    write(path, lazy, {})
    tensors, _ = read_record(path)
    assert tensors["conjugates"].tolist() == [1 - 2j, 3 + 4j]
    assert tensors["negatives"].tolist() == [-2, 4]
    assert tensors["negative"].tolist() == [-2]


def test_what_safetensors_writes_is_read(path: Path) -> None:
    tensors = {"b": torch.arange(3), "a": torch.tensor([True, False]), "c": torch.rand(2, 2)}
    path.write_bytes(with_checksum(safetensors.torch.save(tensors, {record.KEY: '{"format": 1}'})))
    stored, _ = read_record(path)
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())


def with_checksum(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 50], "data_offsets": [0, 1 << 52]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]},
        {"dtype": "F7", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]},
        {"shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2]},
        "F32",
        None,
    ],
    ids=str,
)
def test_a_header_that_does_not_describe_the_file_is_refused(path: Path, entry: object) -> None:
    header = json.dumps({"__metadata__": {record.KEY: '{"format": 1}'}, "weight": entry}).encode()
    path.write_bytes(with_checksum(struct.pack("<Q", len(header)) + header + bytes(8)))
    with pytest.raises(DamagedError, match=r"row\.record is not a record"):
        read_record(path)


@pytest.mark.parametrize("shape", [[0, 1 << 80], [0, 1 << 62, 1 << 62]])
def test_a_shape_that_torch_cannot_have_is_refused(path: Path, shape: list[int]) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    header = json.dumps({"__metadata__": {record.KEY: '{"format": 1}'}, "weight": entry}).encode()
    path.write_bytes(with_checksum(struct.pack("<Q", len(header)) + header))
    with pytest.raises(DamagedError, match=r"row\.record is not a record"):
        read_record(path)


@pytest.mark.memory
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured through /proc")
def test_writing_takes_no_memory_and_reading_takes_one_copy(path: Path) -> None:
    tensors = {str(number): torch.ones(1 << 20) for number in range(8)}  # 32 MB
    size = sum(tensor.nbytes for tensor in tensors.values())
    assert peak_growth(lambda: write_file(path, Record(tensors, {}).write)) < 0.3 * size
    assert peak_growth(lambda: read_record(path)) < 1.3 * size


def peak_growth(work: Callable[[], object]) -> int:
    """Return the bytes that this process takes beyond what it has, at its peak while it works."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_bytes("VmRSS")
    work()
    return memory_bytes("VmHWM") - before


def memory_bytes(field: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024
