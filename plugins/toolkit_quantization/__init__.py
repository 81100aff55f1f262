"""Dynamic quantization: weights in few bits, activations rounded per row where int8 computes; nothing to train.

Both are rounded symmetrically, so that a weight of zero stays zero and what a row gives depends on it alone. What it
costs is measured on the validation split: layers that cost too much are returned to float.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from toolkit import Data, Note, TechniqueError, hookimpl
from toolkit_quantization import arithmetic, layers
from toolkit_quantization.arithmetic import Choice
from toolkit_quantization.compile_choice import tried
from toolkit_quantization.conversion import Conversion
from toolkit_quantization.conversion_cost import Judge, relative_error
from toolkit_quantization.engine_choice import Chosen, by_name, fastest
from toolkit_quantization.engines import ENGINES
from toolkit_quantization.float_fallback import scan_note
from toolkit_quantization.params import Params
from toolkit_quantization.selection import reasons, select, weights_by_layer
from toolkit_quantization.self_compiling import Compiled

__all__ = ["Findings", "Params", "convert", "measure", "optimize", "prepare", "relative_error", "resolve"]


@dataclass
class Findings:
    """What `optimize` finds and the report shows: numbers and notes, the engine, whether the model
    compiles itself, the layers returned to float, and the arithmetic of each layer."""

    values: dict[str, float | Note] = field(default_factory=dict)
    engine: str | None = None
    compiles: bool = False
    returned: tuple[str, ...] = ()
    choices: dict[str, Choice] = field(default_factory=dict)


def convert(model: nn.Module, params: Params) -> nn.Module:
    """A copy whose chosen layers are all quantized, whatever that costs; what they shared, their successors share."""
    engine = ENGINES[params.engine]
    dtypes = select(model, params, engine)
    conversion = Conversion(model, dtypes, engine, arithmetic.choose(model, dtypes, params))
    return conversion.of([name for group in conversion.groups for name in group])


@hookimpl
def prepare(params: Params, data: Data) -> Findings:
    """Refuse a device without the engine; what is returned takes what `optimize` finds."""
    if params.engine != "auto" and (reason := ENGINES[params.engine].why_unavailable(data.device)):
        raise TechniqueError(f"engine '{params.engine}': {reason}")
    return Findings()


@hookimpl
def optimize(model: nn.Module, params: Params, data: Data, prepared: Findings) -> nn.Module:
    """Convert as much as stays within the bounds, by the engine that is named or by the fastest."""
    judge = Judge(model, data, params)
    auto = params.engine == "auto"
    choice = fastest(model.eval(), params, data, judge) if auto else by_name(model, params, judge)
    _note(choice, judge, prepared)
    if not params.compile or not ENGINES[choice.engine].compiles:
        return choice.guarded.model
    found = tried(choice.guarded.model, params, data)
    prepared.compiles, prepared.values["compile"] = found.compiles, found.note
    return found.model


def _note(choice: Chosen, judge: Judge, findings: Findings) -> None:
    guarded = choice.guarded
    findings.choices = dict(guarded.choices)
    if choice.engine == "toolkit":
        findings.values["arithmetic"] = Note("", arithmetic.table(guarded.model, guarded.choices))
    findings.engine, findings.returned = choice.engine, guarded.returned
    findings.values["output_error"] = guarded.verdict.error
    if guarded.verdict.drop is not None:
        findings.values["drop"] = guarded.verdict.drop
    if guarded.scan:
        findings.values["scan"] = scan_note(guarded, judge)
    if choice.note is not None:
        findings.values["engine"] = choice.note


@hookimpl
def resolve(params: Params, prepared: Findings) -> Params:
    """The engine, the arithmetic and whether to compile, as they were the fastest, instead of `auto`."""
    found = arithmetic.resolved(params, prepared.choices)
    engine, compiles = (
        prepared.engine or params.engine,
        prepared.compiles if params.compile == "auto" else params.compile,
    )
    return params.model_copy(update={"engine": engine, "arithmetic": found, "compile": compiles})


@hookimpl
def measure(model: nn.Module, params: Params, prepared: Findings) -> dict[str, float | Note]:
    """The number of quantized layers, what they cost, and what stays in float and why."""
    engine = ENGINES[prepared.engine or params.engine]
    inner = model.model if isinstance(model, Compiled) else model
    why = reasons(inner, params, engine)
    why.update(dict.fromkeys(prepared.returned, "returned to float, as it cost too much"))
    sizes = {
        layer: sum(weight.parameter.numel() for weight in weights.values())
        for layer, weights in weights_by_layer(inner).items()
    }
    table = [{"layer": layer, "weights": sizes[layer], "reason": why[layer]} for layer in sizes]
    count = sum(1 for _ in layers.converted(inner))
    return {"layers": count, **prepared.values, "float": Note("" if table else "nothing with weights", table)}
