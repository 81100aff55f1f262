"""A finished stage as a record: its model to be trained on, its row, and what it promised."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit import model_files as artifact
from toolkit.errors import ToolkitError
from toolkit.promises import Kind, Promises
from toolkit.rows import Note
from toolkit.storage.record import DamagedError, pack_record, read_record
from toolkit.training import TrainingSettings


@dataclass(frozen=True)
class Result:
    """What a stage left: `values` of its row without what observers measured, (steps, 2) float64 loss and learning
    rate of every training step, the settings that it was trained with, and by technique the params as they were
    resolved, as tables of a recipe (None where they are the recipe's)."""

    model: nn.Module
    values: dict[str, Any]
    promises: Promises
    steps: Tensor
    settings: TrainingSettings | None = None
    reused: bool = False
    params: tuple[dict[str, Any] | None, ...] = ()


def as_steps(steps: Sequence[tuple[float, float]]) -> Tensor:
    """Loss and learning rate of every step as one tensor."""
    return torch.tensor(steps, dtype=torch.float64).reshape(-1, 2)


def pack_result(result: Result, key: str, title: str) -> bytes:
    """The record of a stage; `key` says what determined it, `title` what it is called in lists."""
    parts = artifact.take_apart(result.model, fold=False)
    zeros, named = _numbered(result.promises.zeros)
    content = {
        "key": key,
        "title": title,
        "skeleton": base64.b64encode(parts.skeleton).decode(),
        "ties": parts.ties,
        "values": {name: _to_json(value) for name, value in result.values.items()},
        "zeros": named,
        "kinds": {path: _kind_to_json(kind) for path, kind in result.promises.kinds.items()},
        "reused": result.reused,
        "params": result.params,
        "settings": result.settings.model_dump() if result.settings is not None else None,
    }
    tensors = {f"model/{name}": tensor for name, tensor in parts.tensors.items()}
    return pack_record({**tensors, **zeros, "steps": result.steps}, content)


def read_result(path: Path, key: str, allow: Sequence[type], trusted: Sequence[str]) -> Result:
    """The stage of a record, its model on the CPU; a `DamagedError` where it is not intact or of another `key`."""
    tensors, content = read_record(path)
    try:
        if content["key"] != key:
            raise DamagedError(f"{path} is the record of something else")
        stored = {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
        parts = artifact.Parts(base64.b64decode(content["skeleton"]), stored, content["ties"])
        settings = content["settings"]
        return Result(
            artifact.put_together(parts, allow, trusted, str(path)),
            {name: _from_json(value) for name, value in content["values"].items()},
            Promises(_by_name(content["zeros"], tensors), _kinds(content["kinds"])),
            tensors["steps"],
            TrainingSettings.model_validate(settings) if settings is not None else None,
            content["reused"],
            tuple(content["params"]),
        )
    except ToolkitError as error:
        raise DamagedError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{path} is not the record of a stage: {error}") from error


def _numbered(zeros: dict[str, dict[str, Tensor]]) -> tuple[dict[str, Tensor], list[tuple[str, str]]]:
    """The promised zeros as tensors by number, and of each the weight and the maker."""
    named = [(path, maker) for path, makers in zeros.items() for maker in makers]
    return {f"zeros/{number}": zeros[path][maker] for number, (path, maker) in enumerate(named)}, named


def _by_name(named: list[tuple[str, str]], tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    zeros: dict[str, dict[str, Tensor]] = {}
    for number, (path, maker) in enumerate(named):
        zeros.setdefault(path, {})[maker] = tensors[f"zeros/{number}"]
    return zeros


def _kind_to_json(kind: Kind) -> dict[str, Any]:
    return {**asdict(kind), "dtypes": sorted(str(dtype).removeprefix("torch.") for dtype in kind.dtypes)}


def _kinds(content: dict[str, Any]) -> dict[str, Kind]:
    return {
        path: Kind(**{**kind, "dtypes": frozenset(getattr(torch, dtype) for dtype in kind["dtypes"])})
        for path, kind in content.items()
    }


def _to_json(value: Any) -> Any:
    return {"note": value.to_json()} if isinstance(value, Note) else value


def _from_json(value: Any) -> Any:
    return Note.from_json(value["note"]) if isinstance(value, dict) and "note" in value else value
