"""Quantization: stores weights in few bits; int8 layers round their inputs, too, and multiply integers.

Activations are rounded row by row as they come (dynamic), or to ranges that were calibrated (static). Static ones run
whole layers in integers in exported files, and can be trained: a `finetune` table trains with the rounding.

Rounding is symmetric, so that a zero weight stays zero, and the result of a row depends on that row alone. The cost is
measured on the validation split (on train if there is none): layers that cost too much are returned to float.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from toolkit import Data, Note, Number, TechniqueError, Training, hookimpl
from toolkit_quantization import arithmetic, layers
from toolkit_quantization.arithmetic import Choice
from toolkit_quantization.batch_mates import dependence
from toolkit_quantization.compile_choice import choose_compiled
from toolkit_quantization.conversion import Conversion
from toolkit_quantization.conversion_cost import CostMeter, relative_error
from toolkit_quantization.engine_choice import Chosen, by_name, fastest
from toolkit_quantization.engines import ENGINES
from toolkit_quantization.equalized.dynamic import equalized
from toolkit_quantization.equalized.network import Equalization
from toolkit_quantization.float_fallback import scan_note
from toolkit_quantization.params import Params
from toolkit_quantization.recurrent import Int8Recurrent
from toolkit_quantization.recurrent_guard import all_in_integers
from toolkit_quantization.selection import reasons, select, weights_by_layer
from toolkit_quantization.self_compiling import Compiled
from toolkit_quantization.static.stage import Calibrated, calibrated, converted, trained

SIMULATION = Note("computes in float what integers give; export the row to run it in integers")

__all__ = ["Findings", "Params", "convert", "measure", "numbers", "optimize", "prepare", "relative_error", "resolve"]

numbers = {
    "layers": Number("quantized layers", "number of layers that are stored in fewer bits, or multiply integers"),
    "output_error": Number(
        "output error",
        "root mean square change of the outputs on the selection split, relative to the outputs",
        better="lower",
    ),
    "drop": Number(
        "drop by the conversion",
        "drop of the primary metric on the selection split: in points, or in percent of a value that is no fraction",
        better="lower",
    ),
    "equalized": Number("equalized layers", "number of layers into which scales of channels were moved"),
    "batch_error": Number(
        "change by batch mates",
        "change of the outputs from batch 1 to a batch of the selection split, relative to the outputs, where "
        "recurrent layers have int8 products: the samples of a batch share their scales",
        better="lower",
    ),
}


@dataclass
class Findings:
    """What `optimize` and `finish` choose and the report shows: numbers and notes, the engine, whether the model
    compiles itself, the layers returned to float, and the arithmetic of each layer.

    `calibrated` is the model between both, with static activations.
    """

    values: dict[str, float | Note] = field(default_factory=dict)
    engine: str | None = None
    compiles: bool = False
    returned: tuple[str, ...] = ()
    choices: dict[str, Choice] = field(default_factory=dict)
    calibrated: Calibrated | None = None


def convert(model: nn.Module, params: Params) -> nn.Module:
    """Return a copy with all selected layers quantized, whatever that costs; shared weights stay shared.

    Raises:
        TechniqueError: the rounding is to be compensated, or scales are to be moved, for which there are no samples.
    """
    if params.rounding == "compensated":
        raise TechniqueError("rounding: 'compensated' looks at samples, and convert has none; use a stage of a recipe")
    if params.equalize:
        raise TechniqueError("equalize: it looks at samples, and convert has none; use a stage of a recipe")
    engine = ENGINES[params.engine]
    dtypes = select(model, params, engine)
    choices = arithmetic.choose(model, dtypes, params)
    conversion = Conversion(model, dtypes, engine, choices, layers.Encodings(params.group))
    converted = conversion.of([name for group in conversion.groups for name in group])
    return all_in_integers(converted, model, conversion.choices, params)


@hookimpl
def prepare(params: Params, data: Data) -> Findings:
    """Return empty findings; refuse an engine that does not run on this device."""
    if params.engine != "auto" and (reason := ENGINES[params.engine].why_unavailable(data.device)):
        raise TechniqueError(f"engine '{params.engine}': {reason}")
    return Findings()


@hookimpl
def optimize(model: nn.Module, params: Params, data: Data, prepared: Findings) -> nn.Module:
    """Quantize as many layers as the bounds allow, with the engine that the recipe names, or with the fastest."""
    if params.activations == "static":
        prepared.calibrated = calibrated(model, params, data)
        _note_equalization(prepared.calibrated.equalization, prepared)
        return prepared.calibrated.model
    meter = CostMeter(model, data, params)
    if params.equalize:
        model, made = equalized(model, params, data)
        _note_equalization(made, prepared)
    auto = params.engine == "auto"
    choice = fastest(model.eval(), params, data, meter) if auto else by_name(model, params, meter)
    _note(choice, meter, prepared)
    _note_recurrent(choice, data, prepared)
    if not params.compile or not ENGINES[choice.engine].compiles:
        return choice.guarded.model
    compiled = choose_compiled(choice.guarded.model, params, data)
    prepared.compiles, prepared.values["compile"] = compiled.compiles, compiled.note
    return compiled.model


def _note(choice: Chosen, meter: CostMeter, findings: Findings) -> None:
    guarded = choice.guarded
    findings.choices = dict(guarded.choices)
    if choice.engine == "toolkit":
        findings.values["arithmetic"] = Note("", arithmetic.table(guarded.model, guarded.choices))
    findings.engine, findings.returned = choice.engine, guarded.returned
    findings.values["output_error"] = guarded.cost.error
    if guarded.cost.drop is not None:
        findings.values["drop"] = guarded.cost.drop
    if guarded.scan:
        findings.values["scan"] = scan_note(guarded, meter)
    if choice.rounding is not None:
        findings.values["rounding"] = choice.rounding
    if choice.note is not None:
        findings.values["engine"] = choice.note


def _note_equalization(made: Equalization | None, findings: Findings) -> None:
    if made is not None:
        findings.values.update(equalized=made.layers, equalization=made.note)


def _note_recurrent(choice: Chosen, data: Data, findings: Findings) -> None:
    """Note which recurrent layers multiply integers and, if any does, how far answers depend on the batch."""
    note, model = choice.guarded.recurrent, choice.guarded.model
    if note is None:
        return
    findings.values["recurrent"] = note
    if any(isinstance(module, Int8Recurrent) for module in model.modules()):
        depends = dependence(model, data)
        findings.values["batch_error"] = depends.error
        findings.values["recurrent"] = Note(f"{note.text}; {depends}", note.table)


@hookimpl
def finetune(model: nn.Module, params: Params, prepared: Findings, training: Training) -> Training:
    """With static activations, train with the rounding of weights, biases and activations."""
    ready = prepared.calibrated
    return training if ready is None else trained(model, ready, params, training)


@hookimpl
def finish(model: nn.Module, params: Params, prepared: Findings) -> nn.Module:
    """With static activations, convert as many of the calibrated layers as the bounds allow."""
    ready = prepared.calibrated
    if ready is None:
        return model
    guarded = converted(model, ready, params)
    _note(Chosen("toolkit", guarded, rounding=ready.rounding), ready.meter, prepared)
    if ready.roundings:  # a training moves the outputs, whatever is rounded
        del prepared.values["output_error"]
    prepared.values["arithmetic"] = SIMULATION
    return guarded.model


@hookimpl
def resolve(params: Params, prepared: Findings) -> Params:
    """Replace `auto` by the engine, the arithmetic and the decision to compile that were the fastest."""
    chosen = {
        "engine": prepared.engine or params.engine,
        "arithmetic": arithmetic.resolved(params, prepared.choices),
        "compile": prepared.compiles if params.compile == "auto" else params.compile,
    }
    return params.model_copy(update=chosen)


@hookimpl
def measure(model: nn.Module, params: Params, prepared: Findings) -> dict[str, float | Note]:
    """Return the number of quantized layers, what they cost, and which layers stay in float and why."""
    inner = model.model if isinstance(model, Compiled) else model
    why = _reasons(inner, params, prepared)
    why.update(dict.fromkeys(prepared.returned, "returned to float, because it cost too much"))
    sizes = {
        layer: sum(weight.parameter.numel() for weight in weights.values())
        for layer, weights in weights_by_layer(inner).items()
    }
    table = [{"layer": layer, "weights": sizes[layer], "reason": why.get(layer)} for layer in sizes]
    made = [module for _, module in layers.converted(inner)]
    values = {**prepared.values, "float": Note("" if table else "no layer stays in float", table)}
    if experiments := sum(getattr(module, "precision", None) == "int2" for module in made):
        values["experiment"] = Note(f"weights of 2 bits, in {experiments} of {len(made)} layers, are an experiment")
    return {"layers": len(made), **values}


def _reasons(model: nn.Module, params: Params, findings: Findings) -> dict[str, str | None]:
    if findings.calibrated is not None:
        return dict(findings.calibrated.reasons)
    return reasons(model, params, ENGINES[findings.engine or params.engine])
