"""The ONNX files of `recipes/channels.toml` and `recipes/mnist.toml`, timed in turn in one process, on one thread.

    python tests/benchmarks/recipe_files.py [--samples N] [--budget SECONDS] [--runs CHANNELS MNIST]

Without the folders of two runs, both recipes are run on some of the digits: that changes what the weights are, but
neither the number of channels nor the operators. Intervals are those of the median ratio.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import onnx
import onnxruntime
from peers import Session, opened
from tabulate import tabulate

import toolkit
from toolkit.data.mnist import mnist
from toolkit.recipe.shipped import shipped
from toolkit.timing import time_in_turn

RECIPES = ("channels", "mnist")
BATCHES = (1, 128)
MIN_ROUNDS = 100


def run_of(recipe: str, samples: int, folder: Path) -> Path:
    changes = {"data.args": {"samples": samples}, "measure.budget": 0.1}
    toolkit.run(shipped()[recipe], changes, output=folder / recipe, cache=False)
    return folder / recipe


def operators(file: Path) -> str:
    """How many operators of integers a file has, so that files can be compared with those of a full run."""
    names = [node.op_type for node in onnx.load(file).graph.node]
    return ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names)) if name != "Constant")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=6_000)
    parser.add_argument("--budget", type=float, default=20.0)
    parser.add_argument("--runs", type=Path, nargs=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = asked.runs or [run_of(recipe, asked.samples, Path(folder)) for recipe in RECIPES]
        files = {recipe: run / "exports/onnxruntime/model.onnx" for recipe, run in zip(RECIPES, runs, strict=True)}
        sessions: dict[str, Session] = {recipe: opened(file) for recipe, file in files.items()}
        sizes = {recipe: (file.stat().st_size, operators(file)) for recipe, file in files.items()}
    rows = []
    for size in BATCHES:
        images = mnist().example(size).inputs.numpy()
        calls = {recipe: partial(session, images) for recipe, session in sessions.items()}
        timings = time_in_turn(calls, asked.budget, min_rounds=MIN_ROUNDS, warm_up=True)
        low, high = timings.ratio_interval(*RECIPES)
        rows.append([size, f"{timings.ratio(*RECIPES):.3f} ({low:.3f} to {high:.3f})"])
    print(f"ONNX Runtime {onnxruntime.__version__}, one thread")
    print(tabulate([[recipe, *sizes[recipe]] for recipe in RECIPES], ["recipe", "bytes", "operators"]))
    print(tabulate(rows, ["batch", "time of channels over mnist"]))


if __name__ == "__main__":
    main()
