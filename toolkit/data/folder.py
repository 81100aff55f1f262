"""Pictures in a folder: one folder for each class, in folders for the splits or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

from toolkit.data.batches import Split
from toolkit.data.pictures import Standardized
from toolkit.data.splits import Data
from toolkit.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the weights of torchvision expect
LARGEST_IN_MEMORY_BYTES = 2**30


@dataclass(frozen=True)
class Files:
    """Which pictures there are: a file and the number of its class for each sample."""

    paths: list[Path]
    targets: Tensor
    classes: list[str]

    def at(self, index: Tensor) -> Files:
        """Some of them."""
        return Files([self.paths[position] for position in index.tolist()], self.targets[index], self.classes)


def image_folder(
    root: str,
    size: int = 64,
    channels: int = 3,
    test: float = 0.2,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Data:
    """The pictures below `root`: inputs (N, channels, size, size) float32, standardized; targets (N,) int64.

    A class is a folder of pictures; their names in order are the classes 0, 1, …. Either `root` has folders `train`,
    `test` and maybe `validation` with the classes in each, or it has the classes, and a test split is cut from each.
    Pictures are scaled until their shorter side fits, and cropped in the middle. Up to 1 GiB of them is kept in memory,
    others are read in every epoch.

    Args:
        root: the folder; a relative one lies beside the recipe.
        size: pixels a side.
        channels: 3 for colours, 1 for grey.
        test: share of the pictures of each class that are kept for the test split, by a fixed permutation.
        mean: of the pixels of each channel, between 0 and 1; by default those of ImageNet.
        std: their standard deviation.

    Raises:
        InputError: no pictures, one class only, other classes in another split, a file that is no picture.
    """
    if channels not in (1, 3) or size < 1 or not 0 < test < 1:
        raise InputError(
            f"image-folder takes 1 or 3 channels, a size from 1 and a test share between 0 and 1, "
            f"not {channels}, {size} and {test}"
        )
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    standardized = Standardized(_values(mean, MEAN, channels, "mean"), _values(std, STD, channels, "std"))
    held: Any = {name: _held(files, size, channels) for name, files in _splits(folder, test).items()}
    return Data(**held, convert=standardized)


def _values(given: Sequence[float] | None, default: Sequence[float], channels: int, name: str) -> tuple[float, ...]:
    if given is None:
        return tuple(default) if channels == 3 else (sum(default) / len(default),)
    if len(given) not in (1, channels):
        raise InputError(f"image-folder takes {channels} numbers as {name}, one for each channel, not {len(given)}")
    return tuple(given)


def _splits(root: Path, test: float) -> dict[str, Files]:
    found = {name: next((root / way for way in ways if (root / way).is_dir()), None) for name, ways in SPLITS.items()}
    if found["train"] is None:
        return _cut(_files(root), test)
    splits = {name: _files(folder) for name, folder in found.items() if folder is not None}
    for name, files in splits.items():
        if files.classes != splits["train"].classes:
            other = sorted(set(files.classes) ^ set(splits["train"].classes))
            raise InputError(f"{found[name]} and {found['train']} have different classes: only one has {other}")
    if len(splits) == 1:
        return _cut(splits["train"], test)
    return splits


def _cut(files: Files, test: float) -> dict[str, Files]:
    """A share of each class for the test split, one picture at least; the permutation depends on nothing else."""
    order = torch.randperm(len(files.paths), generator=torch.Generator().manual_seed(0))
    held_out = torch.zeros(len(order), dtype=torch.bool)
    for number, name in enumerate(files.classes):
        members = order[files.targets[order] == number]
        if len(members) < 2:
            raise InputError(f"there is one picture of '{name}': a class takes two at least, to train on and to test")
        held_out[members[: max(1, round(test * len(members)))]] = True
    return {"train": files.at((~held_out).nonzero().flatten()), "test": files.at(held_out.nonzero().flatten())}


def _files(folder: Path) -> Files:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    paths: list[Path] = []
    targets: list[int] = []
    for number, name in enumerate(classes):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(f"there are no pictures in {folder / name}: known are {', '.join(sorted(SUFFIXES))}")
        paths += found
        targets += [number] * len(found)
    if len(classes) < 2:
        known = f"only one, '{classes[0]}'" if classes else "none"
        raise InputError(f"{folder} must hold a folder for each of two classes or more, and there is {known}")
    return Files(paths, torch.tensor(targets), classes)


def _held(files: Files, size: int, channels: int) -> Split:
    """The pictures in memory if they are not too large, else where they lie."""
    pictures = Pictures(files, size, channels)
    if len(files.paths) * channels * size**2 > LARGEST_IN_MEMORY_BYTES:
        return pictures
    return torch.stack([pictures[position][0] for position in range(len(pictures))]), files.targets


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Pictures (channels, size, size) uint8 and the numbers of their classes, read from files one by one."""

    def __init__(self, files: Files, size: int, channels: int) -> None:
        self.files, self.size, self.channels = files, size, channels

    def __len__(self) -> int:
        return len(self.files.paths)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        path = self.files.paths[position]
        try:
            with Image.open(path) as file:
                pixels = pil_to_tensor(file.convert("RGB" if self.channels == 3 else "L"))
        except Exception as error:  # of decoders, which raise what they like for a damaged file
            raise InputError(f"{path} cannot be read as a picture ({error}): mend it or take it away") from error
        scaled = resize(pixels, [self.size], InterpolationMode.BILINEAR, antialias=True)
        return center_crop(scaled, [self.size, self.size]), self.files.targets[position]
