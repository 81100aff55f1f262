"""Whether the products of a layer are int8 or float: decided by measuring both on the layer's own inputs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from toolkit_quantization.codecs import Dtype
from toolkit_quantization.layers import Arithmetic, can_multiply_int8, converted, successor
from toolkit_quantization.stored import Stored

SECONDS, MIN_TURNS = 0.05, 5


class Call(NamedTuple):
    """What a layer was called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Choice(NamedTuple):
    """The arithmetic of a layer, and the time that its successor takes over that of the layer, None if not measured."""

    arithmetic: Arithmetic
    ratio: float | None = None


def choose(
    modules: Mapping[str, nn.Module], asked: Arithmetic | Literal["auto"], run: Callable[[], Any]
) -> dict[str, Choice]:
    """The arithmetic of each layer: on `auto` the faster one, and never int8 for a layer that `run` does not call."""
    if asked == "float":
        return dict.fromkeys(modules, Choice("float"))
    calls = first_calls(modules, run)
    if asked == "auto":
        return {path: measure(module, calls.get(path)) for path, module in modules.items()}
    return {path: Choice("int8" if path in calls else "float") for path in modules}


@torch.no_grad()
def first_calls(modules: Mapping[str, nn.Module], run: Callable[[], Any]) -> dict[str, Call]:
    """What each module is called with first while `run` runs the model; those that are not called are left out.

    A module may be read instead of called: its weight, by the module around it.
    """
    calls: dict[str, Call] = {}
    with ExitStack() as hooks, _no_fused_paths():
        for path, module in modules.items():

            def keep(_: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
                calls.setdefault(path, Call(args, kwargs))

            hooks.callback(module.register_forward_pre_hook(keep, with_kwargs=True).remove)
        run()
    return calls


@torch.no_grad()
def measure(module: nn.Module, call: Call | None, dtype: Dtype = "int8") -> Choice:
    """The faster arithmetic for a layer that is called so, on this machine; `float` for one that is never called."""
    if call is None:
        return Choice("float")
    candidates: dict[Arithmetic, nn.Module] = {"float": successor(module, dtype, "float")}
    if dtype == "int8" and can_multiply_int8(module):
        candidates["int8"] = successor(module, dtype, "int8")
    before, *times = _medians([module, *candidates.values()], call)
    by_arithmetic = dict(zip(candidates, times, strict=True))
    fastest = min(by_arithmetic, key=by_arithmetic.__getitem__)
    return Choice(fastest, by_arithmetic[fastest] / before)


def table(model: nn.Module, choices: Mapping[str, Choice]) -> list[dict[str, Any]]:
    """A row for every layer in fewer bits: its kind, dtype and arithmetic, and its time over the float layer's."""
    rows = []
    for path, module in converted(model):
        choice = choices.get(path, Choice("float"))
        ratio = None if choice.ratio is None else round(choice.ratio, 2)
        kept, arithmetic = (module.precision, "float") if isinstance(module, Stored) else ("int8", "int8")
        rows.append(
            {"layer": path, "kind": module.replaces, "dtype": kept, "arithmetic": arithmetic, "time to float": ratio}
        )
    return rows


def _medians(modules: list[nn.Module], call: Call) -> list[float]:
    """The median seconds of a call of each; they take turns, so that a busy machine slows them alike."""
    times: list[list[float]] = [[] for _ in modules]
    end = time.perf_counter() + SECONDS * len(modules)
    while time.perf_counter() < end or len(times[0]) < MIN_TURNS + 1:
        for module, own in zip(modules, times, strict=True):
            started = time.perf_counter()
            module(*call.args, **call.kwargs)
            own.append(time.perf_counter() - started)
    return [statistics.median(own[1:]) for own in times]  # without the first, which warms up


@contextmanager
def _no_fused_paths() -> Iterator[None]:
    # A fused encoder layer calls nothing within it.
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
