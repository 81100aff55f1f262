"""Loading of weights into a model, from safetensors or from a file written by `torch.save`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from toolkit.errors import InputError, described, did_you_mean
from toolkit.model_files.safe.finite import not_finite
from toolkit.model_files.safe.safetensors_file import read_tensors
from toolkit.model_files.safe.state_dict import MoreThanTensorsError, read_state_dict

State: TypeAlias = dict[str, Tensor]
MAX_LISTED = 6  # mismatches in one error
MAX_DEPTH = 2  # of a state dict in a checkpoint: `ema` and `ema.model`
COUNTER = "num_batches_tracked"  # of batch norms; files from before PyTorch 1.0 do not have it
AVERAGED = "n_averaged"  # added by torch.optim.swa_utils.AveragedModel


def load_weights(model: nn.Module, path: Path, key: str | None = None) -> None:
    """Load a state dict with exactly the names and shapes of the model.

    Prefixes of all names are removed (`module.` of DataParallel, `_orig_mod.` of torch.compile). Missing counters of
    batch norms keep the model's value.

    Args:
        model: model to load into.
        path: .safetensors file, or a state dict or checkpoint written by `torch.save`.
        key: key of the state dict in a checkpoint, with dots for nested keys; None if only one matches the model.

    Raises:
        InputError: the file cannot be read, contains several matching state dicts, or does not match the model.
    """
    expected = model.state_dict()
    state = _unwrapped(expected, _chosen(read_states(path), key, expected, path))
    _complete(expected, state)
    _drop_not_persistent(model, expected, state)
    mismatches = _mismatches(expected, state)
    if mismatches:
        listing = "; ".join(mismatches[:MAX_LISTED])
        if len(mismatches) > MAX_LISTED:
            listing += f"; … and {len(mismatches) - MAX_LISTED} more"
        raise InputError(f"{path} does not match {type(model).__name__}: {listing}")
    try:
        model.load_state_dict(state)
    except Exception as error:  # unusual tensors (sparse, meta), or a dictionary with unusual attributes
        raise InputError(f"cannot load {path} into {type(model).__name__}: {described(error)}") from error
    reason = not_finite([*model.named_parameters(), *model.named_buffers()])
    if reason is not None:
        raise InputError(f"{path} has values that are not finite: {reason}; save the model before training diverges")


def read_states(path: Path) -> dict[str, State]:
    """Return every state dict in a file by its key; the key of a file that is one state dict is empty.

    Nothing in the file is executed.
    """
    if path.suffix == ".safetensors":
        return {"": read_tensors(path)[0]}
    try:
        content = read_state_dict(path)
    except (UnpicklingError, MoreThanTensorsError) as error:  # torch's message explains how to execute the file anyway
        raise InputError(
            f"{path} contains more than tensors and is not loaded; save the model's state_dict(), not the model"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is corrupted, or not a state dict written by torch.save: {error}") from error
    except Exception as error:
        raise InputError(f"{path} is corrupted, or not a state dict written by torch.save") from error
    states = {"": content} if _is_state(content) else dict(_states_in(content))
    if not states:
        raise InputError(f"{path} is not a state dict; save the model's state_dict(), not the model")
    return states


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in dict.values(value))


def _states_in(content: Any, place: str = "", depth: int = 1) -> Iterator[tuple[str, State]]:
    """Yield the state dicts in a checkpoint; dictionaries with keys other than strings are an optimizer's."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in dict.keys(content)):
        return
    for key, value in dict.items(content):
        if _is_state(value) and value:
            yield f"{place}{key}", value
        elif depth < MAX_DEPTH:
            yield from _states_in(value, f"{place}{key}.", depth + 1)


def _chosen(states: Mapping[str, State], key: str | None, expected: State, path: Path) -> State:
    """Return the state dict under `key`, or the only one that shares names with the model."""
    if key is not None:
        if "" in states:
            raise InputError(f"{path} is a single state dict; remove `weights_key`")
        if key not in states:
            raise InputError(f"{path} has no state dict '{key}'{did_you_mean(key, states)}")
        return states[key]
    names = [name for name, state in states.items() if _unwrapped(expected, state).keys() & expected.keys()]
    names = names or [*states]
    if len(names) > 1:
        listing = ", ".join(f"'{name}'" for name in names)
        raise InputError(f"{path} contains several state dicts; set `weights_key` to one of {listing}")
    return states[names[0]]


def _unwrapped(expected: State, state: State) -> State:
    """Return the state dict without prefixes that all names share and the model does not have."""
    if any(name in expected for name in state):
        return state  # with its metadata
    inner = {name: tensor for name, tensor in dict.items(state) if name != AVERAGED}
    while inner and not any(name in expected for name in inner):
        prefixes = {name.partition(".")[0] for name in inner}
        if len(prefixes) > 1 or not all("." in name for name in inner):
            return state
        inner = {name.partition(".")[2]: tensor for name, tensor in inner.items()}
    return inner or state


def _complete(expected: State, state: State) -> None:
    """Add tensors that a file may lack: all but one name of a shared tensor, as in safetensors, and counters."""
    stored = {
        (expected[name].data_ptr(), expected[name].shape): tensor
        for name, tensor in state.items()
        if name in expected and not is_lazy(expected[name])
    }
    for name, tensor in expected.items():
        if name not in state and not is_lazy(tensor) and (tensor.data_ptr(), tensor.shape) in stored:
            state[name] = stored[tensor.data_ptr(), tensor.shape]
        elif name not in state and name.rpartition(".")[2] == COUNTER:
            state[name] = tensor


def _drop_not_persistent(model: nn.Module, expected: State, state: State) -> None:
    """Remove buffers that a run's model file contains but a state dict does not: the model creates them itself."""
    for name, _ in model.named_buffers():
        if name not in expected:
            state.pop(name, None)


def _mismatches(expected: State, state: State) -> list[str]:
    missing = [f"'{name}' is missing" for name in expected if name not in state]
    unknown = [f"'{name}' is not in the model" for name in state if name not in expected]
    shapes = [
        f"'{name}' must be {tuple(expected[name].shape)}, found {tuple(state[name].shape)}"
        for name in expected
        if name in state and not is_lazy(expected[name]) and state[name].shape != expected[name].shape
    ]
    return shapes + missing + unknown
