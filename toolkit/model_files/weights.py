"""Weights for a model from a file: safetensors, or a state dict that is opened with `weights_only`."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from toolkit.errors import InputError, described
from toolkit.model_files.safe.finite import not_finite
from toolkit.model_files.safe.safetensors_file import read_tensors
from toolkit.model_files.safe.state_dict import MoreThanTensorsError, read_state_dict

MAX_LISTED = 6  # mismatches in a sentence
STATE_KEYS = ("state_dict", "model_state_dict", "model")  # where checkpoints of trainings keep the state dict


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict with exactly the model's names and shapes; an `InputError` lists what does not match.

    A prefix that a wrapper put before all names (`module.` of DataParallel, `_orig_mod.` of torch.compile) is dropped.
    """
    expected = model.state_dict()
    state = _unwrapped(expected, read_state(path))
    _complete(expected, state)
    _drop_not_persistent(model, expected, state)
    mismatches = _mismatches(expected, state)
    if mismatches:
        shown = "; ".join(mismatches[:MAX_LISTED])
        if len(mismatches) > MAX_LISTED:
            shown += f"; … and {len(mismatches) - MAX_LISTED} more"
        raise InputError(f"{path} does not fit {type(model).__name__}: {shown}")
    try:
        model.load_state_dict(state)
    except Exception as error:  # tensors of another kind: sparse, without data; or a dictionary with odd attributes
        raise InputError(f"{path} cannot be loaded into {type(model).__name__}: {described(error)}") from error
    problem = not_finite([*model.named_parameters(), *model.named_buffers()])
    if problem is not None:
        raise InputError(f"{path} is of no use: {problem}; save the model before its training diverges")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a state dict that `torch.save` wrote; executes nothing.

    A checkpoint may hold the state dict among other things, under one of the keys `STATE_KEYS`.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        state = read_state_dict(path)
    except (UnpicklingError, MoreThanTensorsError) as error:  # torch's text says how to execute the file nevertheless
        raise InputError(
            f"{path} holds more than tensors and is not opened: save the model's state_dict(), not the model"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is damaged, or not a state dict that torch.save wrote: {error}") from error
    except Exception as error:
        raise InputError(f"{path} is damaged, or not a state dict that torch.save wrote") from error
    if _is_state(state):
        return state
    nested = [dict.get(state, name) for name in STATE_KEYS] if isinstance(state, dict) else []
    inner = next((value for value in nested if _is_state(value) and value), None)
    if inner is None:
        raise InputError(f"{path} is not a state dict: save the model's state_dict(), not the model")
    return inner


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in dict.values(value))


def _unwrapped(expected: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state without a prefix that all names have, if only then some of them are names of the model's."""
    inner = state
    while inner and not any(name in expected for name in inner):
        first = {name.partition(".")[0] for name in inner}
        if len(first) > 1 or not all("." in name for name in inner):
            return state
        inner = {name.partition(".")[2]: tensor for name, tensor in inner.items()}
    return inner


def _complete(expected: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Add the further names of tensors that the model shares: safetensors stores each tensor under one name only."""
    given = {name for name in state if name in expected and not is_lazy(expected[name])}
    stored = {(expected[name].data_ptr(), expected[name].shape): state[name] for name in given}
    for name, tensor in expected.items():
        if name not in state and not is_lazy(tensor) and (tensor.data_ptr(), tensor.shape) in stored:
            state[name] = stored[tensor.data_ptr(), tensor.shape]


def _drop_not_persistent(model: nn.Module, expected: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Drop non-persistent buffers, which a run's artifact holds and a state dict does not."""
    for name, _ in model.named_buffers():
        if name not in expected:
            state.pop(name, None)


def _mismatches(expected: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    missing = [f"'{name}' is missing" for name in expected if name not in state]
    unknown = [f"'{name}' is not in the model" for name in state if name not in expected]
    shapes = [
        f"'{name}' is {tuple(state[name].shape)} and must be {tuple(expected[name].shape)}"
        for name in expected
        if name in state and not is_lazy(expected[name]) and state[name].shape != expected[name].shape
    ]
    return shapes + missing + unknown
