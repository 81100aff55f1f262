"""Loading of weights into a model, from safetensors or from a file written by `torch.save`."""

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

MAX_LISTED = 6  # mismatches in one error
NESTED = ("state_dict", "model_state_dict", "model")  # where checkpoints of trainings keep the state dict


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict of exactly the model's names and shapes; an `InputError` lists what does not match.

    What wrappers put before all names (`module.` of DataParallel, `_orig_mod.` of torch.compile) is left out.
    """
    expected = model.state_dict()
    state = _unwrapped(expected, read_state(path))
    _complete(expected, state)
    _drop_not_persistent(model, expected, state)
    mismatches = _mismatches(expected, state)
    if mismatches:
        listing = "; ".join(mismatches[:MAX_LISTED])
        if len(mismatches) > MAX_LISTED:
            listing += f"; … and {len(mismatches) - MAX_LISTED} more"
        raise InputError(f"{path} does not fit {type(model).__name__}: {listing}")
    try:
        model.load_state_dict(state)
    except Exception as error:  # tensors of another kind: sparse, without data; or a dictionary with odd attributes
        raise InputError(f"{path} cannot be loaded into {type(model).__name__}: {described(error)}") from error
    wrong = not_finite([*model.named_parameters(), *model.named_buffers()])
    if wrong is not None:
        raise InputError(f"{path} is of no use: {wrong}; save the model before its training diverges")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a state dict that `torch.save` wrote; executes nothing.

    Of a checkpoint, a dictionary that holds the state dict among other things, that is taken.
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
    nested = [dict.get(state, name) for name in NESTED] if isinstance(state, dict) else []
    found = next((value for value in nested if _is_state(value) and value), None)
    if found is None:
        raise InputError(f"{path} is not a state dict: save the model's state_dict(), not the model")
    return found


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in dict.values(value))


def _unwrapped(expected: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what precedes every name, if no name is one of the model's before and some are after."""
    inner = state
    while inner and not any(name in expected for name in inner):
        first = {name.partition(".")[0] for name in inner}
        if len(first) > 1 or not all("." in name for name in inner):
            return state
        inner = {name.partition(".")[2]: tensor for name, tensor in inner.items()}
    return inner


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
