"""Chooses the engine: the one that the recipe names or, for `auto`, the fastest of those within the bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from toolkit import Data, Note, TechniqueError, masks
from toolkit_quantization.arithmetic import choose
from toolkit_quantization.compensated.network import compensated
from toolkit_quantization.conversion import Conversion
from toolkit_quantization.conversion_cost import CostMeter
from toolkit_quantization.engines import ENGINES, Engine
from toolkit_quantization.float_fallback import GuardedModel, guard
from toolkit_quantization.layers import Encodings
from toolkit_quantization.model_timing import time_models
from toolkit_quantization.params import Params
from toolkit_quantization.recurrent_guard import with_integers
from toolkit_quantization.selection import select
from toolkit_quantization.self_compiling import Compiled


@dataclass(frozen=True)
class Chosen:
    """The engine to use, what it made of the model, if there was a choice, the reason, and how weights were rounded."""

    engine: str
    guarded: GuardedModel
    note: Note | None = None
    rounding: Note | None = None


def by_name(model: nn.Module, params: Params, meter: CostMeter) -> Chosen:
    """Return the conversion by the engine that the recipe names; a `TechniqueError` if it fails."""
    engine = ENGINES[params.engine]
    if params.rounding == "nearest":
        return Chosen(params.engine, _made(model, params, engine, meter))
    compensation = compensated(
        model, select(model, params, engine), meter.data, params.calibration.samples, group=params.group
    )
    made = _made(model, params, engine, meter, compensation.encodings)
    return Chosen(params.engine, made, rounding=compensation.note)


def fastest(model: nn.Module, params: Params, data: Data, meter: CostMeter) -> Chosen:
    """Return the conversion by the engine that is the fastest on this machine, of those that keep within the bounds."""
    made: dict[str, GuardedModel] = {}
    refused: dict[str, str] = {}
    for name, engine in ENGINES.items():
        reason = engine.why_unavailable(data.device) or _why_not_compiled(engine, params)
        if reason is None:
            try:
                made[name] = _made(model, params, engine, meter)
            except TechniqueError as error:
                reason = str(error)
        if reason is not None:
            refused[name] = reason
    if not made:
        raise TechniqueError("; ".join(f"{name}: {reason}" for name, reason in refused.items()))
    times = time_models({"float": masks.folded(model), **_as_run(made, params)}, data, batch_sizes(params, data))
    ratios = {name: {size: seconds[name] / seconds["float"] for size, seconds in times.items()} for name in made}
    chosen = min(made, key=lambda name: geometric_mean(ratios[name]))
    return Chosen(chosen, made[chosen], _note(chosen, made, ratios, refused, meter))


def _made(
    model: nn.Module, params: Params, engine: Engine, meter: CostMeter, encodings: Encodings | None = None
) -> GuardedModel:
    data = meter.data
    batch = data.example(min(data.batch_size, data.samples("train")))

    def run() -> None:
        with torch.no_grad():
            data.task.forward(model.eval(), batch)

    dtypes = select(model, params, engine)
    choices = choose(model, dtypes, params, run)
    encodings = Encodings(params.group) if encodings is None else encodings
    guarded = guard(Conversion(model, dtypes, engine, choices, encodings), meter, params.scan)
    return with_integers(guarded, model, params, meter)


def _why_not_compiled(engine: Engine, params: Params) -> str | None:
    return "it cannot be compiled" if params.compile is True and not engine.compiles else None


def _as_run(made: Mapping[str, GuardedModel], params: Params) -> dict[str, nn.Module]:
    return {name: Compiled(each.model) if params.compile is True else each.model for name, each in made.items()}


def batch_sizes(params: Params, data: Data) -> list[int]:
    """Return the batch sizes at which to time models: the recipe's, or 1 and the data's."""
    return params.batch_sizes or sorted({1, min(data.batch_size, data.samples("train"))})


def geometric_mean(ratios: Mapping[int, float]) -> float:
    """Return the geometric mean of ratios by batch size; unlike the arithmetic one, it inverts with the ratios."""
    return math.exp(sum(map(math.log, ratios.values())) / len(ratios))


def _note(
    chosen: str,
    made: Mapping[str, GuardedModel],
    ratios: Mapping[str, Mapping[int, float]],
    refused: Mapping[str, str],
    meter: CostMeter,
) -> Note:
    """Return what each engine costs, and its time relative to the float model."""
    rows: list[dict[str, Any]] = []
    for name, guarded in made.items():
        drop = {} if meter.metric is None else {f"drop of {meter.metric} ({meter.unit})": guarded.cost.drop}
        speed = {f"time of float's @{size}": ratio for size, ratio in ratios[name].items()}
        row = {"engine": name, **speed, **drop, "output error": guarded.cost.error}
        rows.append({**row, "returned to float": len(guarded.returned)})
    text = f"'{chosen}' is the fastest within max_drop, over all batch sizes, timed in turn with the float model"
    return Note("; ".join([text, *(f"not {name}: {reason}" for name, reason in refused.items())]), rows)
