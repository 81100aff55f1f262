"""The complete MNIST dataset, embedded: Yann LeCun, Corinna Cortes and Christopher Burges, CC BY-SA 3.0."""

from __future__ import annotations

import hashlib
import lzma
import os
from importlib.resources import files
from pathlib import Path

import torch
from torchvision.datasets import MNIST

from toolkit.data.cache_folder import cache_folder
from toolkit.data.images import Standardized
from toolkit.data.sample_count import require_count
from toolkit.data.splits import Data
from toolkit.errors import InputError

# SHA-256 of the uncompressed IDX files.
CHECKSUMS = {
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
}
MEAN, STANDARD_DEVIATION = 0.1307, 0.3081  # of the pixels of train, scaled to [0, 1]


def mnist(samples: int | None = None) -> Data:
    """Load 60,000 and 10,000 handwritten digits: inputs (N, 1, 28, 28) float32, standardized; targets (N,) int64.

    Args:
        samples: number of samples to load from train and from test, to try out a recipe in seconds; all by default.

    Raises:
        InputError: `samples` is no whole number of at least 1, or the cache directory cannot be written.
    """
    require_count("mnist", samples)
    root = _unpack_all(cache_folder())
    preparation = Standardized((MEAN,), (STANDARD_DEVIATION,)).description
    return Data(train=_tensors(root, True, samples), test=_tensors(root, False, samples), preparation=preparation)


def _tensors(root: Path, train: bool, samples: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    digits = MNIST(str(root), train=train)
    pixels = digits.data[:samples].unsqueeze(1).float().div_(255)
    return pixels.sub_(MEAN).div_(STANDARD_DEVIATION), digits.targets[:samples].clone()


def _unpack_all(root: Path) -> Path:
    """Unpack missing files into the folder that torchvision reads; return the root of that folder."""
    folder = root / "MNIST" / "raw"
    for name, checksum in CHECKSUMS.items():
        path = folder / name
        try:
            if not path.is_file() or _sha256(path.read_bytes()) != checksum:
                _unpack(name, checksum, path)
        except OSError as error:
            raise InputError(
                f"cannot unpack MNIST into {folder} ({error.strerror}); set TOOLKIT_CACHE to a writable folder"
            ) from error
    return root


def _unpack(name: str, checksum: str, path: Path) -> None:
    content = lzma.decompress((files("toolkit.data") / "mnist" / f"{name}.xz").read_bytes())
    if _sha256(content) != checksum:
        raise InputError(f"the embedded file {name}.xz is corrupted; reinstall the toolkit")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Write a temporary file and rename it, so that parallel runs and interruptions leave no partial file.
    temporary = path.with_name(f".{name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # remains if the disk is full


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
