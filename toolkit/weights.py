"""Weights from a file into a model: safetensors, or a state dict opened with `weights_only`."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from toolkit.errors import InputError, described
from toolkit.opening.finite import not_finite
from toolkit.opening.statedict import MoreThanTensorsError, read_state_dict
from toolkit.opening.tensorfile import read_tensors


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict of exactly the model's names and shapes; an `InputError` lists what does not match."""
    expected, state = model.state_dict(), read_state(path)
    _complete(expected, state)
    _drop_not_persistent(model, expected, state)
    mismatches = _mismatches(expected, state)
    if mismatches:
        shown = "; ".join(mismatches[:6]) + ("; …" if len(mismatches) > 6 else "")
        raise InputError(f"{path} does not fit {type(model).__name__}: {shown}")
    try:
        model.load_state_dict(state)
    except Exception as error:  # tensors of another kind: sparse, without data; or a dictionary with odd attributes
        raise InputError(f"{path} cannot be loaded into {type(model).__name__}: {described(error)}") from error
    wrong = not_finite([*model.named_parameters(), *model.named_buffers()])
    if wrong is not None:
        raise InputError(f"{path} is of no use: {wrong}; save the model before its training diverges")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a state dict that `torch.save` wrote; executes nothing."""
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
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in dict.values(state)):
        raise InputError(f"{path} is not a state dict: save the model's state_dict(), not the model")
    return state


def _complete(expected: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Give tensors that the model shares under several names all of them: safetensors stores each but once."""
    given = {name for name in state if name in expected and not is_lazy(expected[name])}
    stored = {(expected[name].data_ptr(), expected[name].shape): state[name] for name in given}
    for name, tensor in expected.items():
        if name not in state and not is_lazy(tensor) and (tensor.data_ptr(), tensor.shape) in stored:
            state[name] = stored[tensor.data_ptr(), tensor.shape]


def _drop_not_persistent(model: nn.Module, expected: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Leave out buffers that a run's artifact holds and a state dict does not: the model makes them itself."""
    for name, _ in model.named_buffers():
        if name not in expected:
            state.pop(name, None)


def _mismatches(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    missing = [f"'{name}' is missing" for name in expected if name not in found]
    unknown = [f"'{name}' is not in the model" for name in found if name not in expected]
    shapes = [
        f"'{name}' is {tuple(found[name].shape)} and must be {tuple(expected[name].shape)}"
        for name in expected
        if name in found and not is_lazy(expected[name]) and found[name].shape != expected[name].shape
    ]
    return shapes + missing + unknown
