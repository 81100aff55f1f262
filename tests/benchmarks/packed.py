"""Bytes of Deep Compression's networks: `python tests/benchmarks/packed.py [lenet-300-100 | lenet5]`.

Trains, prunes gradually to 8 %, shares values (3 bits in the largest layer, 5 in the others), trains those, and prints
the bytes of the packed file, its error on the test split, and what other coders make of the same indices.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import toolkit
from toolkit import masks
from toolkit import model_files as artifact
from toolkit.model_files.packed import pack

# A minute or three on one core.
TRAINING = {
    "lenet-300-100": {"epochs": 8, "few": 2, "precision": "float32"},
    "lenet5": {"epochs": 3, "few": 1, "precision": "bfloat16"},
}
RECIPE = """
name = "packed"
model = {{ source = "{model}", training = {{ epochs = {epochs}, lr = 2e-3, precision = "{precision}" }} }}
data = {{ source = "mnist", validation = 0 }}
output = {{ packed = true, half = ["*"] }}

[[stages]]
technique = "pruning"
params = {{ sparsity = 0.92, schedule = "gradual" }}
finetune = {{ epochs = {epochs}, precision = "{precision}" }}

[[stages]]
technique = "codebook"
params = {{ bits = 5, overrides = {{ fc1 = 3 }} }}
finetune = {{ epochs = {few}, lr = 2e-4, precision = "{precision}" }}
"""


def zstandard(content: bytes) -> bytes:
    """By zstd at its strongest, where the package `zstandard` is installed."""
    import zstandard

    return bytes(zstandard.ZstdCompressor(level=22).compress(content))


CODERS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": lambda content: zlib.compress(content, 9),
    "bz2": bz2.compress,
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9}]),
    "zstd": zstandard,
}


def indices_of(weights: list[Tensor]) -> bytes:
    """The index of every entry among its weight's values, a byte each."""
    return b"".join(weight.unique(return_inverse=True)[1].to(torch.uint8).numpy().tobytes() for weight in weights)


def entropy_bytes(weights: list[Tensor]) -> float:
    """The entropy of these indices, each weight's by its own frequencies."""
    found = 0.0
    for weight in weights:
        counts = weight.unique(return_counts=True)[1].double().numpy()
        found -= float((counts * np.log2(counts / counts.sum())).sum()) / 8
    return found


def main(model: str) -> None:
    """Run the recipe and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "packed.toml"
        recipe.write_text(RECIPE.format(model=model, **TRAINING[model]))
        report = toolkit.run(recipe, output=Path(folder) / "run", cache=False)
        small = toolkit.load(Path(folder) / "run")
    dense = 4 * sum(parameter.numel() for parameter in small.parameters())
    for row in report.rows:
        size = dense if row is report.baseline else row["size_bytes"]
        error = 100 * (1 - row["accuracy"])
        print(f"{row.stage:10} {error:5.2f} % error  {size:9} bytes  {dense / size:6.1f} times smaller")
    weights = [weight.value for weight in masks.named_weights(small) if weight.value.dim() > 1]
    content = indices_of(weights)
    pickled = len(artifact.pack(small)[artifact.SKELETON])
    print(f"\nskeleton: {pickled} bytes pickled; packed with zeros for weights: {rest_bytes(small)} bytes")
    print(f"indices of {len(content)} entries: entropy {entropy_bytes(weights):.0f} bytes")
    for name, coder in CODERS.items():
        try:
            print(f"{name:6} {len(coder(content)):7} bytes")
        except ImportError as error:
            print(f"{name:6} {error}")
    print(f"packed {symbols_bytes(small):7} bytes, with tables, without biases")


def rest_bytes(model: torch.nn.Module) -> int:
    """The packed file of the same network with zeros everywhere: what there is besides its weights."""
    empty = masks.clone(model)
    for parameter in empty.parameters():
        torch.nn.init.zeros_(parameter)
    return len(pack(empty))


def symbols_bytes(model: torch.nn.Module) -> int:
    """The packed file without biases and without what there is besides weights."""
    bare = masks.clone(model)
    for parameter in bare.parameters():
        if parameter.dim() == 1:
            torch.nn.init.zeros_(parameter)
    return len(pack(bare)) - rest_bytes(model)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "lenet-300-100")
