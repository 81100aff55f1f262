"""What a stage with static activations does: trace, fold and calibrate, then convert as much as the bounds allow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from toolkit import Data, TechniqueError
from toolkit_quantization.codecs import Dtype
from toolkit_quantization.conversion_cost import CostMeter, relative_error
from toolkit_quantization.float_fallback import GuardedModel, guard
from toolkit_quantization.params import Params
from toolkit_quantization.static.calibration import calibrate
from toolkit_quantization.static.conversion import StaticConversion, place_quantizers
from toolkit_quantization.static.network import static_networks
from toolkit_quantization.static.norm_folding import fold_norms
from toolkit_quantization.static.selection import selected, static_reasons
from toolkit_quantization.static.tracing import static

MAX_TRACING_ERROR = 1e-3  # of the outputs' size: folded norms round elsewhere


@dataclass
class Calibrated:
    """A model with calibrated quantizers, what to convert in it, and what it cost before.

    `reasons` says why layers with weights stay in float.
    """

    model: nn.Module
    dtypes: dict[str, Dtype]
    reasons: dict[str, str | None]
    meter: CostMeter


def calibrated(model: nn.Module, params: Params, data: Data) -> Calibrated:
    """Return the model with norms folded and with quantizers, whose ranges are calibrated; nothing is converted yet.

    Raises:
        TechniqueError: no layer can be quantized, the network cannot be traced, or calibration fails.
    """
    meter = CostMeter(model, data, params)
    network, untraced = static(model.eval())
    for part in static_networks(network).values():
        fold_norms(part)
    _require_equal(model, network, data)
    dtypes = selected(model, network, params, untraced)
    reasons = static_reasons(network, params, untraced)
    place_quantizers(network, dtypes)
    calibrate(network, data, params.calibration.samples, params.calibration.method)
    return Calibrated(network, dtypes, reasons, meter)


def converted(model: nn.Module, ready: Calibrated, params: Params) -> GuardedModel:
    """Return a calibrated model, trained or not, with as many layers in integers as the bounds allow."""
    return guard(StaticConversion(model, ready.dtypes, params.overflow_safe), ready.meter, params.scan)


@torch.no_grad()
def _require_equal(model: nn.Module, network: nn.Module, data: Data) -> None:
    batch = data.example(2)
    before, after = (data.task.logits(data.task.forward(each.eval(), batch)).double() for each in (model, network))
    error = relative_error(after, before)
    if before.isfinite().all() and not error <= MAX_TRACING_ERROR:
        raise TechniqueError(
            f"the traced network changes the outputs by {error:.2g} of their size; choose activations 'dynamic'"
        )
