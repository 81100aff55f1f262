"""Whether a compiled model is faster than as it is: measured on the machine that compiles it, and said."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import nn

from toolkit import Data, Note, TechniqueError
from toolkit_quantization.engine_choice import batch_sizes, geometric_mean
from toolkit_quantization.model_timing import time_models
from toolkit_quantization.params import Params
from toolkit_quantization.self_compiling import Compiled


@dataclass(frozen=True)
class Tried:
    """The model that is used, whether it compiles itself, and how the two compare."""

    model: nn.Module
    compiles: bool
    note: Note


def tried(model: nn.Module, params: Params, data: Data) -> Tried:
    """The model made to compile itself; on `compile = "auto"` only if it is faster so, over all batch sizes.

    Raises:
        TechniqueError: it cannot be compiled here, and the recipe says that it has to be.
    """
    compiled = Compiled(model).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with torch.no_grad():
            data.task.forward(compiled, data.example(2))
        times = {} if compiled.failure else _times(model, compiled, params, data)
    if compiled.failure:  # at once, or at another batch size
        return _uncompilable(model, compiled.failure, params)
    ratios = {size: found["compiled"] / found["as it is"] for size, found in times.items()}
    faster = geometric_mean(ratios) < 1
    compiles = faster or params.compile is True
    return Tried(compiled if compiles else model, compiles, Note(_sentence(faster, compiles), [_row(ratios)]))


def _times(model: nn.Module, compiled: nn.Module, params: Params, data: Data) -> dict[int, dict[str, float]]:
    return time_models({"as it is": model, "compiled": compiled}, data, batch_sizes(params, data))


def _uncompilable(model: nn.Module, failure: str, params: Params) -> Tried:
    if params.compile is True:
        raise TechniqueError(f"the model cannot be compiled here, leave compile out: {failure}")
    return Tried(model, False, Note(f"left as it is, for it cannot be compiled here: {failure}"))


def _sentence(faster: bool, compiles: bool) -> str:
    if faster:
        return "compiled, the model is faster over all batch sizes than as it is, timed in turn"
    if compiles:
        return "compiled, the model is not faster here than as it is: leave compile out, or let 'auto' choose"
    return "left as it is, for compiled it is not faster here over all batch sizes, timed in turn"


def _row(ratios: dict[int, float]) -> dict[str, float]:
    return {f"compiled time of uncompiled @{size}": round(ratio, 2) for size, ratio in ratios.items()}
