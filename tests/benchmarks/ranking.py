"""Magnitude pruning of many weights against PyTorch's: `python tests/benchmarks/ranking.py [millions]`, 100 by default.

Each runs in a process of its own, in turn; times and peaks of memory beyond the model are medians over the rounds.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import toolkit_pruning
import torch
from toolkit_pruning import Params
from toolkit_pruning.scores import scores_of
from torch import Tensor, nn
from torch.nn.utils import prune

from toolkit import masks
from toolkit.testing import toy_data

ROUNDS, LAYERS, SPARSITY = 3, 10, 0.5
INPUTS = 5000


def model_of(millions: int) -> nn.Module:
    """So many million normally distributed weights in ten layers, made without anything that raises the peak."""
    outputs = millions * 1_000_000 // LAYERS // INPUTS
    layers = [nn.utils.skip_init(nn.Linear, INPUTS, outputs, bias=False) for _ in range(LAYERS)]
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        torch.nn.init.normal_(layer.weight, generator=generator)
    return nn.ModuleList(layers)


def prune_here(model: nn.Module) -> None:
    """The technique, whole: ranked, and masked by parametrizations."""
    toolkit_pruning.optimize(model=model, params=Params(sparsity=SPARSITY), data=toy_data(), prepared=[])


def rank_here(model: nn.Module) -> list[Tensor]:
    """The ranking alone."""
    params = Params(sparsity=SPARSITY)
    scores = scores_of(model, toolkit_pruning.select(model, params).layers, params, toy_data())
    return list(toolkit_pruning.choose(model, scores, params, SPARSITY).values())


def prune_torch(model: nn.Module) -> None:
    """What PyTorch offers, which ranks and masks in one."""
    prune.global_unstructured([(layer, "weight") for layer in model.children()], prune.L1Unstructured, amount=SPARSITY)


RIVAL = "global_unstructured"
WAYS: dict[str, Callable[[nn.Module], Any]] = {RIVAL: prune_torch, "pruning": prune_here, "ranking": rank_here}


def what_was_kept(way: str, model: nn.Module, result: Any) -> list[Tensor]:
    """The masks, as bool."""
    if way == "ranking":
        return list(result)
    if way == "pruning":
        return list(masks.current(model).values())
    return [layer.get_buffer("weight_mask").bool() for layer in model.children()]


def measure(way: str, millions: int) -> dict[str, float]:
    """Seconds and bytes of one way, in this process, and what tells whether the same weights were chosen."""
    torch.set_num_threads(1)
    model = model_of(millions)
    weights = [weight.detach() for weight in model.parameters()]
    before_bytes = psutil.Process().memory_info().rss
    started = time.perf_counter()
    result = WAYS[way](model)
    seconds = time.perf_counter() - started
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        "bytes": peak_bytes - before_bytes,
        **choice(weights, what_was_kept(way, model, result)),
    }


def choice(weights: Sequence[Tensor], kept: Sequence[Tensor]) -> dict[str, float]:
    """How many weights are zero, the largest of them, and a checksum of all masks but where weights are equal to it."""
    largest = max(float(weight.abs().masked_fill_(mask, 0).max()) for weight, mask in zip(weights, kept, strict=True))
    checksum = 0
    for weight, mask in zip(weights, kept, strict=True):
        checksum = zlib.crc32((mask | (weight.abs() == largest)).numpy().data, checksum)
    return {"zeros": sum(int((~mask).sum()) for mask in kept), "largest": largest, "checksum": checksum}


def measured_apart(way: str, millions: int) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, str(millions), way]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def medians(rounds: Sequence[dict[str, dict[str, float]]], way: str, what: str) -> tuple[float, float]:
    """Of one number of one way, and of its ratio to PyTorch's."""
    return (
        statistics.median(found[way][what] for found in rounds),
        statistics.median(found[way][what] / found[RIVAL][what] for found in rounds),
    )


def main(millions: int) -> None:
    """Print seconds, megabytes and their ratios to PyTorch's, and whether the same weights were chosen."""
    rounds = [{way: measured_apart(way, millions) for way in WAYS} for _ in range(ROUNDS)]
    print(f"{millions} million weights, sparsity {SPARSITY}, medians of {ROUNDS} rounds")
    for way in WAYS:
        seconds, ratio = medians(rounds, way, "seconds")
        size_bytes, size_ratio = medians(rounds, way, "bytes")
        print(f"{way:20} {seconds:7.2f} s ({ratio:.2f})  {size_bytes / 1e6:6.0f} MB more ({size_ratio:.2f})")
    found = [way for ways in rounds for way in ways.values()]
    choices = {(way["zeros"], way["largest"], way["checksum"]) for way in found}
    print("the same weights are chosen" if len(choices) == 1 else f"different weights are chosen: {choices}")


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    if len(sys.argv) > 2:
        print(json.dumps(measure(sys.argv[2], size)))
    else:
        main(size)
