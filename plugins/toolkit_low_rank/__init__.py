"""Low rank: linear layers and convolutions become factors that are applied one after another, with fewer MACs.

Linear layers and 1x1 convolutions become two layers by a singular value decomposition, other convolutions three by
Tucker-2 (Kim et al. 2016): a 1x1 convolution, a convolution with fewer channels, and a 1x1 convolution. All of them are
ordinary layers in an `nn.Sequential`, so that they train, quantize and export like any other. Layers whose factors
would have no fewer MACs stay as they are, and the report says so.

With `data_aware`, factors keep what matters for the outputs of their layer on train samples, as ASVD (Yuan et al. 2023)
and SVD-LLM (Wang et al. 2024) do, instead of what matters for its weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import toolkit
from toolkit import hookimpl
from toolkit_low_rank.layers import candidates, factored
from toolkit_low_rank.moments import moments
from toolkit_low_rank.params import Params
from toolkit_low_rank.ranks import Decomposition, Ranks, choose, saved_parameters

__all__ = ["Findings", "Params", "measure", "numbers", "optimize", "prepare"]

numbers = {
    "removed": toolkit.Number(
        "parameters removed", "share of the network's float parameters that factors save", "fraction", "higher"
    ),
    "energy": toolkit.Number(
        "energy kept",
        "share of squared singular values that factors keep, in the layer that keeps least",
        "fraction",
        "higher",
    ),
}


@dataclass
class Findings:
    """What `optimize` did.

    Attributes:
        removed: share of the network's parameters that factors save.
        rows: a row for each layer that was factored.
        left: the reason for each selected layer that was not.
    """

    removed: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


@hookimpl
def prepare() -> Findings:
    """Return empty findings: `optimize` looks at the model, because another technique may replace it first."""
    return Findings()


@hookimpl
def optimize(model: nn.Module, params: Params, data: toolkit.Data, prepared: Findings) -> nn.Module:
    """Put factors in the place of each selected layer that has fewer MACs with them."""
    found, prepared.left = candidates(model, params, data)
    weights = moments(model, found, params.samples, data) if params.data_aware else {}
    layers = [Decomposition.of(candidate, weights.get(candidate.path)) for candidate in found]
    total = sum(parameter.numel() for parameter in model.parameters())
    ranks = choose(layers, params, total)
    dense = [layer.candidate.path for layer in layers if layer.candidate.path not in ranks]
    prepared.left |= dict.fromkeys(dense, "its factors would not have fewer MACs")
    if not ranks:
        told = toolkit.patterns.reasons_text(prepared.left)
        raise toolkit.TechniqueError(f"no layer can be factored ({told}); select others, or keep less of each")
    prepared.removed = saved_parameters(layers, ranks) / total
    prepared.rows = [_row(layer, ranks) for layer in layers if layer.candidate.path in ranks]
    return _with_factors(model, layers, ranks, data)


@hookimpl
def measure(prepared: Findings) -> dict[str, float | toolkit.Note]:
    """Return the share of parameters that went, the least energy that a layer keeps, and the ranks of all layers."""
    kept = [{"layer": path, "reason": reason} for path, reason in prepared.left.items()]
    return {
        "removed": prepared.removed,
        "energy": min(row["energy"] for row in prepared.rows),
        "layers": toolkit.Note("ranks and MACs of each factored layer", prepared.rows),
        "kept": toolkit.Note("layers that stay, and why" if kept else "no layer stays", kept),
    }


def _row(layer: Decomposition, ranks: Ranks) -> dict[str, Any]:
    candidate, chosen = layer.candidate, ranks[layer.candidate.path]
    return {
        "layer": candidate.path,
        "rank": ", ".join(str(rank) for rank in chosen),
        "full rank": ", ".join(str(len(spectrum.squares)) for spectrum in layer.spectra),
        "energy": layer.energy(chosen),
        "MACs": candidate.macs(chosen),
        "MACs before": candidate.macs(),
    }


def _with_factors(model: nn.Module, layers: list[Decomposition], ranks: Ranks, data: toolkit.Data) -> nn.Module:
    chosen = [layer for layer in layers if layer.candidate.path in ranks]
    model = toolkit.replace_layers(
        model,
        {
            layer.candidate.layer: factored(layer.candidate.layer, layer.factors(ranks[layer.candidate.path]))
            for layer in chosen
        },
    )
    _check(model, ranks, data)
    return model


def _check(model: nn.Module, ranks: Ranks, data: toolkit.Data) -> None:
    """Run the model once: a network may read attributes of a layer that factors do not have."""
    try:
        with torch.no_grad():
            data.task.forward(toolkit.masks.clone(model).eval(), data.example(1))
    except (AttributeError, TypeError) as error:
        named, reason = ", ".join(ranks), " ".join(str(error).split())
        raise toolkit.TechniqueError(f"the network does more than call {named} ({reason}); exclude it") from error
