"""The format of a file: a newer one is said to be newer, in one sentence that tells what to do; others are damaged."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from click.testing import CliRunner

import toolkit
from toolkit import model_files as artifact
from toolkit.cli import main
from toolkit.errors import ArtifactError
from toolkit.model_files.packed import file as packed_file
from toolkit.testing import toy_mlp

UPGRADE = (
    "was written by a newer version of the toolkit (format {}, this version reads up to {}); "
    "upgrade it with pip install -U"
)


def plain(directory: Path, file_format: Any) -> Path:
    files = artifact.pack(toy_mlp())
    tensors = safetensors.torch.load(files[artifact.TENSORS])
    metadata = {"toolkit": json.dumps({"format": file_format, "ties": {}})}
    files[artifact.TENSORS] = safetensors.torch.save(tensors, metadata)
    # What a newer skeleton looks like nobody knows: the format has to be seen before it is opened.
    files[artifact.SKELETON] = files[artifact.SKELETON] if file_format == artifact.FORMAT else b"of the future"
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def packed(directory: Path, mark: bytes) -> Path:
    pytest.importorskip("constriction")
    path = directory / "model.packed"
    path.write_bytes(mark + packed_file.pack(toy_mlp())[len(mark) :])
    return path


def error(path: Path) -> str:
    with pytest.raises(ArtifactError) as raised:
        toolkit.load(path)
    shown = CliRunner().invoke(main, ["evaluate", str(path), "--data", "toolkit.testing:toy_data"])
    assert (shown.exit_code, shown.output.count("\n")) == (2, 1)
    return str(raised.value)


def test_this_format_is_opened(tmp_path: Path) -> None:
    toolkit.load(plain(tmp_path, artifact.FORMAT))
    toolkit.load(packed(tmp_path, packed_file.MAGIC))


@pytest.mark.parametrize("ahead", [1, 2, 40])
def test_a_newer_plain_format_says_so(ahead: int, tmp_path: Path) -> None:
    newer = artifact.FORMAT + ahead
    message = UPGRADE.format(newer, artifact.FORMAT)
    assert f"{artifact.TENSORS} {message}" in error(plain(tmp_path, newer))


@pytest.mark.parametrize("mark", [b"TKP3", b"TKP9"])
def test_a_newer_packed_format_says_so(mark: bytes, tmp_path: Path) -> None:
    assert UPGRADE.format(mark[3:].decode(), 2) in error(packed(tmp_path, mark))


@pytest.mark.parametrize("file_format", [0, -1, "2", 2.0, None, True, [2]])
def test_what_is_no_format_is_not_newer(file_format: Any, tmp_path: Path) -> None:
    message = error(plain(tmp_path, file_format))
    assert "newer" not in message
    assert artifact.TENSORS in message


@pytest.mark.parametrize("mark", [b"TKP0", b"TKPx", b"TKQ2", b"\xb2KP2", b"TKP\xb2"])
def test_what_is_no_mark_is_damaged(mark: bytes, tmp_path: Path) -> None:
    assert "is damaged or not a packed model" in error(packed(tmp_path, mark))
