"""What a stage with static activations does: trace, fold and calibrate, then convert as much as the bounds allow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import nn

from toolkit import Data, Note, Training
from toolkit_quantization.calibration_samples import require_samples
from toolkit_quantization.codecs import Dtype
from toolkit_quantization.compensated.network import compensated
from toolkit_quantization.conversion_cost import CostMeter, require_equal
from toolkit_quantization.equalized.network import Equalization, equalize
from toolkit_quantization.float_fallback import GuardedModel, guard
from toolkit_quantization.layers import Encodings
from toolkit_quantization.params import Params
from toolkit_quantization.static.calibration import calibrate, quantizers
from toolkit_quantization.static.conversion import StaticConversion, place_quantizers
from toolkit_quantization.static.network import static_networks
from toolkit_quantization.static.norm_folding import fold_norms
from toolkit_quantization.static.selection import selected, static_reasons
from toolkit_quantization.static.tracing import static
from toolkit_quantization.static.training import Roundings, rounded_training


@dataclass
class Calibrated:
    """A model with calibrated quantizers, what to convert in it, and what it cost before.

    `reasons` says why layers with weights stay in float, `roundings` has those of a training, by layer, and `rounding`
    says what was compensated, `equalization` which scales were moved.
    """

    model: nn.Module
    dtypes: dict[str, Dtype]
    reasons: dict[str, str | None]
    meter: CostMeter
    roundings: Roundings = field(default_factory=dict)
    rounding: Note | None = None
    equalization: Equalization | None = None


def calibrated(model: nn.Module, params: Params, data: Data) -> Calibrated:
    """Return the model with norms folded and with quantizers, whose ranges are calibrated; nothing is converted yet.

    Raises:
        TechniqueError: there are no samples, no layer can be quantized, the network cannot be traced, or calibration
            fails.
    """
    require_samples(data)
    meter = CostMeter(model, data, params)
    network, untraced = static(model.eval())
    for part in static_networks(network).values():
        fold_norms(part)
    require_equal(model, network, data, "the traced network", "choose activations 'dynamic'")
    dtypes = selected(model, network, params, untraced)
    reasons = static_reasons(network, params, untraced)
    equalization = equalize(network, dtypes, data, params.calibration.samples) if params.equalize else None
    require_equal(model, network, data, "the equalized network", "leave equalize out")
    place_quantizers(network, dtypes)
    calibrate(network, data, params.calibration.samples, params.calibration.method)
    return Calibrated(network, dtypes, reasons, meter, equalization=equalization)


def trained(model: nn.Module, ready: Calibrated, params: Params, training: Training) -> Training:
    """Return the training with all roundings of a calibrated model in it."""
    training, ready.roundings = rounded_training(
        model,
        ready.dtypes,
        training,
        overflow_safe=params.overflow_safe,
        learn_steps=params.learn_steps,
        freeze_after=params.freeze_after,
        group=params.group,
    )
    if ready.meter.metric is not None:  # a training moves the outputs of a float network, too
        ready.meter.bounds = ready.meter.bounds._replace(error=math.inf)
    return training


def converted(model: nn.Module, ready: Calibrated, params: Params) -> GuardedModel:
    """Return a calibrated model, trained or not, with as many layers in integers as the bounds allow."""
    for quantizer in quantizers(model).values():
        quantizer.settle()
    learned = {path: each.quantize for path, each in ready.roundings.items()}
    encodings = Encodings(params.group)
    if params.rounding == "compensated":
        samples = params.calibration.samples
        made = compensated(model, ready.dtypes, ready.meter.data, samples, params.overflow_safe, params.group)
        encodings, ready.rounding = made.encodings, made.note
    conversion = StaticConversion(model, ready.dtypes, params.overflow_safe, learned, encodings)
    return guard(conversion, ready.meter, params.scan)
