"""Chooses int8 or float arithmetic for each layer, by timing both on the layer's own inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from toolkit import timing
from toolkit_quantization import recurrent
from toolkit_quantization.codecs import Dtype
from toolkit_quantization.layers import Arithmetic, can_multiply_int8, converted, successor
from toolkit_quantization.params import Params
from toolkit_quantization.reading import read_layers
from toolkit_quantization.selection import arithmetic_of
from toolkit_quantization.stored import Stored

BUDGET_S = 0.05  # for each candidate


class Call(NamedTuple):
    """The arguments of a call of a layer."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Choice(NamedTuple):
    """The arithmetic of a layer, and its successor's time relative to the layer's, None if not measured."""

    arithmetic: Arithmetic
    ratio: float | None = None


def choose(
    model: nn.Module, dtypes: Mapping[str, Dtype], params: Params, run: Callable[[], Any] | None = None
) -> dict[str, Choice]:
    """Return the arithmetic of each layer, by name: on `auto` the faster one, for layers that have a choice.

    Args:
        model: has the layers.
        dtypes: those of the layers to quantize.
        params: the arithmetic that the recipe asks for.
        run: runs the model on a batch. A layer that it does not call gets float arithmetic, like one whose weight the
            module around it reads. Without `run`, all others that have int8 products get them.
    """
    asked = {path: arithmetic_of(path, params) for path in dtypes}
    modules = {path: model.get_submodule(path) for path in dtypes}
    having = {path: modules[path] for path, dtype in dtypes.items() if dtype == "int8" and asked[path] != "float"}
    read = read_layers(model)
    able = {path: module for path, module in having.items() if _has_products(module, params) and module not in read}
    calls = None if run is None or not able else first_calls(able, run)
    choices = dict.fromkeys(dtypes, Choice("float"))
    for path, module in able.items():
        if calls is None:
            choices[path] = Choice("int8")
        elif path in calls and _takes(module, calls[path]):
            choices[path] = measure(module, calls[path], params) if asked[path] == "auto" else Choice("int8")
    return choices


def _has_products(module: nn.Module, params: Params) -> bool:
    return can_multiply_int8(module) or (params.recurrent == "int8" and recurrent.can_multiply(module))


def _takes(module: nn.Module, call: Call) -> bool:
    """Return whether int8 products can be computed for a call: a recurrent layer has none for packed sequences."""
    return not isinstance(module, recurrent.KINDS) or not isinstance([*call.args, *call.kwargs.values()][0], tuple)


def resolved(params: Params, choices: Mapping[str, Choice]) -> Literal["auto", "int8", "float"] | dict[str, Arithmetic]:
    """Return the value of `Params.arithmetic` that repeats these choices without measuring."""
    measured = {path: choice.arithmetic for path, choice in choices.items() if choice.ratio is not None}
    if params.arithmetic != "auto" or not measured:
        return params.arithmetic
    if set(measured.values()) == {"float"}:
        return "float"
    return {path: arithmetic for path, arithmetic in measured.items() if arithmetic == "float"} or "int8"


@torch.no_grad()
def first_calls(modules: Mapping[str, nn.Module], run: Callable[[], Any]) -> dict[str, Call]:
    """Return the first call of each module while `run` runs the model; modules that are not called are left out.

    A module may be read instead of called, when the module around it uses its weight.
    """
    calls: dict[str, Call] = {}
    with ExitStack() as hooks, no_fused_paths():
        for path, module in modules.items():

            def keep(_: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
                calls.setdefault(path, Call(args, kwargs))

            hooks.callback(module.register_forward_pre_hook(keep, with_kwargs=True).remove)
        run()
    return calls


@torch.no_grad()
def measure(module: nn.Module, call: Call, params: Params) -> Choice:
    """Return the faster arithmetic on this machine for a layer that is stored in int8 and called in this way."""
    candidates: dict[Arithmetic, nn.Module] = {"float": successor(module, "int8", "float")}
    if recurrent.can_multiply(module):
        candidates["int8"] = recurrent.multiplying(module, params.overflow_safe)
    else:
        candidates["int8"] = successor(module, "int8", "int8")
    timed: list[tuple[str, nn.Module]] = [("before", module), *candidates.items()]
    calls = {name: partial(each, *call.args, **call.kwargs) for name, each in timed}
    for call_once in calls.values():  # the first call packs weights, which must not be timed
        call_once()
    # No warm-up before each call: in the model, too, another layer runs before this one and fills the caches.
    timings = timing.time_in_turn(calls, BUDGET_S * len(calls))
    fastest = min(candidates, key=timings.median_s)
    return Choice(fastest, timings.median_s(fastest) / timings.median_s("before"))


def table(model: nn.Module, choices: Mapping[str, Choice]) -> list[dict[str, Any]]:
    """Return a row for every quantized layer: kind, dtype, arithmetic, and time relative to the float layer."""
    rows = []
    for path, module in converted(model):
        choice = choices.get(path, Choice("float"))
        time = None if choice.ratio is None else f"×{choice.ratio:.2f}"
        kept, arithmetic = (module.precision, module.arithmetic) if isinstance(module, Stored) else ("int8", "int8")
        layer = {"layer": path, "kind": module.replaces, "dtype": kept, "arithmetic": arithmetic}
        rows.append({**layer, "time relative to float": time})
    return rows


@contextmanager
def no_fused_paths() -> Iterator[None]:
    """Let encoder layers call the layers inside them, which a fused one does not."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
