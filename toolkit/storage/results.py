"""The result of a finished stage, and its conversion to a record and back."""

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
from toolkit.model_files.borrowing import Borrowed
from toolkit.model_files.grants import Entry
from toolkit.promises import Kind, Promises
from toolkit.rows import Note
from toolkit.storage.record import DamagedError, Record, read_record
from toolkit.training import TrainingSettings


@dataclass(frozen=True)
class Result:
    """The result of a stage.

    Attributes:
        model: model as the next stage receives it, parametrizations included.
        values: values of the report row, except those that observers measured.
        promises: properties that later stages must preserve.
        steps: loss and learning rate of every training step, (steps, 2) float64.
        settings: settings of the training; None if the stage did not train.
        reused: whether an earlier run computed the result.
        params: resolved params of each technique as a recipe table; None if they equal those in the recipe.
    """

    model: nn.Module
    values: dict[str, Any]
    promises: Promises
    steps: Tensor
    settings: TrainingSettings | None = None
    reused: bool = False
    params: tuple[dict[str, Any] | None, ...] = ()


def as_steps(steps: Sequence[tuple[float, float]]) -> Tensor:
    """Return the loss and learning rate of every step as one (steps, 2) float64 tensor."""
    return torch.tensor(steps, dtype=torch.float64).reshape(-1, 2)


def pack_result(result: Result, key: str, title: str) -> Record:
    """Return the record of a result.

    Args:
        result: result to store.
        key: identifies everything that determined the result.
        title: name of the result in listings.
    """
    parts = artifact.take_apart(result.model, fold=False)
    zeros, labels = _number_zeros(result.promises.zeros)
    content = {
        "key": key,
        "title": title,
        "skeleton": base64.b64encode(parts.skeleton).decode(),
        "ties": parts.ties,
        "built": asdict(parts.borrowed) if parts.borrowed is not None else None,
        "values": {name: _to_json(value) for name, value in result.values.items()},
        "zeros": labels,
        "kinds": {path: _kind_to_json(kind) for path, kind in result.promises.kinds.items()},
        "reused": result.reused,
        "params": result.params,
        "settings": result.settings.model_dump() if result.settings is not None else None,
    }
    tensors = {f"model/{name}": tensor for name, tensor in parts.tensors.items()}
    return Record({**tensors, **zeros, "steps": result.steps}, content)


def read_result(path: Path, key: str, allow: Sequence[Entry], trusted: Sequence[str]) -> Result:
    """Read a result, with its model on the CPU.

    Raises:
        DamagedError: the record is corrupted, or belongs to a different `key`.
    """
    tensors, content = read_record(path)
    try:
        if content["key"] != key:
            raise DamagedError(f"{path} is the record of a different result")
        stored = {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
        borrowed = Borrowed.of(content.get("built"))  # which records of 0.1 lack
        parts = artifact.Parts(base64.b64decode(content["skeleton"]), stored, content["ties"], borrowed)
        settings = content["settings"]
        return Result(
            artifact.put_together(parts, allow, trusted, str(path)),
            {name: _from_json(value) for name, value in content["values"].items()},
            Promises(_name_zeros(content["zeros"], tensors), _kinds(content["kinds"])),
            tensors["steps"],
            TrainingSettings.model_validate(settings) if settings is not None else None,
            content["reused"],
            tuple(content["params"]),
        )
    except ToolkitError as error:
        raise DamagedError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{path} is not the record of a stage: {error}") from error


def _number_zeros(zeros: dict[str, dict[str, Tensor]]) -> tuple[dict[str, Tensor], list[tuple[str, str]]]:
    """Return the masks of promised zeros under numbered names, and the (weight, technique) pair of each."""
    labels = [(path, maker) for path, makers in zeros.items() for maker in makers]
    return {f"zeros/{number}": zeros[path][maker] for number, (path, maker) in enumerate(labels)}, labels


def _name_zeros(labels: list[tuple[str, str]], tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    zeros: dict[str, dict[str, Tensor]] = {}
    for number, (path, maker) in enumerate(labels):
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
    return {"note": value.model_dump()} if isinstance(value, Note) else value


def _from_json(value: Any) -> Any:
    return Note.model_validate(value["note"]) if isinstance(value, dict) and "note" in value else value
