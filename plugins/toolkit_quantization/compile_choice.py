"""Decides whether a model compiles itself: by the recipe, or by what is faster on this machine."""

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
class CompileChoice:
    """The model to use, whether it compiles itself, and a note on how the two compare."""

    model: nn.Module
    compiles: bool
    note: Note


def choose_compiled(model: nn.Module, params: Params, data: Data) -> CompileChoice:
    """Return the model wrapped to compile itself; on `compile = "auto"` only if that is faster over all batch sizes.

    Raises:
        TechniqueError: the model cannot be compiled on this machine, but the recipe demands it.
    """
    compiled = Compiled(model).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with torch.no_grad():
            data.task.forward(compiled, data.example(2))
        times = {} if compiled.failure else _times(model, compiled, params, data)
    if compiled.failure:  # at the first call, or at another batch size
        return _uncompilable(model, compiled.failure, params)
    ratios = {size: seconds["compiled"] / seconds["as it is"] for size, seconds in times.items()}
    faster = geometric_mean(ratios) < 1
    compiles = faster or params.compile is True
    return CompileChoice(compiled if compiles else model, compiles, Note(_sentence(faster, compiles), [_row(ratios)]))


def _times(model: nn.Module, compiled: nn.Module, params: Params, data: Data) -> dict[int, dict[str, float]]:
    return time_models({"as it is": model, "compiled": compiled}, data, batch_sizes(params, data))


def _uncompilable(model: nn.Module, failure: str, params: Params) -> CompileChoice:
    if params.compile is True:
        raise TechniqueError(f"the model cannot be compiled on this machine, leave compile out: {failure}")
    return CompileChoice(model, False, Note(f"not compiled, because that fails on this machine: {failure}"))


def _sentence(faster: bool, compiles: bool) -> str:
    if faster:
        return "compiled, because that is faster over all batch sizes on this machine (timed in turn)"
    if compiles:
        return "compiled as asked, though that is not faster on this machine; leave compile out, or use 'auto'"
    return "not compiled, because that is not faster over all batch sizes on this machine (timed in turn)"


def _row(ratios: dict[int, float]) -> dict[str, float]:
    return {f"compiled time of uncompiled @{size}": round(ratio, 2) for size, ratio in ratios.items()}
