"""A folder of images as a data source: one subfolder per class, optionally grouped by split."""

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
from toolkit.data.images import Standardized
from toolkit.data.normalization import IMAGENET_MEAN, IMAGENET_STD
from toolkit.data.splits import Data
from toolkit.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
MAX_IN_MEMORY_BYTES = 2**30
MIN_CLASSES = 2
MIN_CROP = 0.1  # an image is scaled to size / crop pixels
MIN_IMAGES_PER_CLASS = 2  # one to train on and one to test on


@dataclass(frozen=True)
class LabelledFiles:
    """The image files of a split, with the class index of each."""

    paths: list[Path]
    targets: Tensor
    classes: list[str]

    def at(self, index: Tensor) -> LabelledFiles:
        """Return the files at these positions."""
        return LabelledFiles([self.paths[position] for position in index.tolist()], self.targets[index], self.classes)


def image_folder(
    root: str,
    size: int = 64,
    channels: int = 3,
    test: float = 0.2,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop: float = 1.0,
) -> Data:
    """Load the images below `root`: inputs (N, channels, size, size) float32, standardized; targets (N,) int64.

    The class folders in alphabetical order are the classes 0, 1, …. `root` contains either these folders, and a test
    split is held out from each, or the folders `train`, `test` and optionally `validation` with the class folders in
    them. Images are scaled, then cropped to a square around their center. Up to 1 GiB of images is loaded into memory;
    larger datasets are read from disk in every epoch.

    Args:
        root: path of the folder; a relative path is resolved next to the recipe.
        size: height and width in pixels.
        channels: 3 for color, 1 for grayscale.
        test: fraction of each class to hold out as the test split; the choice is the same in every run.
        mean: mean of each channel, for pixels in [0, 1]; ImageNet's by default.
        std: standard deviation of each channel, likewise.
        crop: fraction of the shorter side that the square covers; 0.875 cuts 224 pixels out of 256.

    Raises:
        InputError: an argument is out of range, a file is not a readable image, a class is empty, there are fewer than
            two classes, or the splits differ in their classes.
    """
    _check_arguments(size, channels, test, crop)
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"image-folder: {folder} does not exist or is not a folder")
    mean = _per_channel(mean, IMAGENET_MEAN, channels, "mean")
    std = _per_channel(std, IMAGENET_STD, channels, "std")
    files_by_split = _files_by_split(folder, test)
    splits: Any = {name: _load(files, size, channels, crop) for name, files in files_by_split.items()}
    convert = Standardized(mean, std)
    classes = files_by_split["train"].classes
    preparation = (
        f"the center {size} × {size} pixels of an image whose shorter side is scaled to {_shorter_side(size, crop)} "
        f"pixels; {convert.description}"
    )
    return Data(**splits, convert=convert, preparation=preparation, classes=classes)


def _check_arguments(size: int, channels: int, test: float, crop: float) -> None:
    if channels not in (1, 3):
        raise InputError(f"image-folder: channels must be 1 or 3, found {channels}")
    if size < 1:
        raise InputError(f"image-folder: size must be at least 1, found {size}")
    if not 0 < test < 1:
        raise InputError(f"image-folder: test must be between 0 and 1, found {test}")
    if not MIN_CROP <= crop <= 1:
        raise InputError(f"image-folder: crop must be between {MIN_CROP} and 1, found {crop}")


def _per_channel(
    values: Sequence[float] | None, default: Sequence[float], channels: int, name: str
) -> tuple[float, ...]:
    if values is None:
        return tuple(default) if channels == 3 else (sum(default) / len(default),)
    if len(values) not in (1, channels):
        raise InputError(f"image-folder: {name} must have one value per channel ({channels}), found {len(values)}")
    return tuple(values)


def _files_by_split(root: Path, test: float) -> dict[str, LabelledFiles]:
    folders = {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    if folders["train"] is None:
        return _hold_out(_list_files(root), test)
    splits = {split: _list_files(folder) for split, folder in folders.items() if folder is not None}
    for split, files in splits.items():
        if unmatched := sorted(set(files.classes) ^ set(splits["train"].classes)):
            both = f"{folders[split]} and {folders['train']}"
            raise InputError(f"{both} must have the same classes, found in only one of them: {', '.join(unmatched)}")
    if len(splits) == 1:
        return _hold_out(splits["train"], test)
    return splits


def _hold_out(files: LabelledFiles, test: float) -> dict[str, LabelledFiles]:
    """Split off a test fraction of each class, at least one image, by a fixed permutation."""
    order = torch.randperm(len(files.paths), generator=torch.Generator().manual_seed(0))
    is_test = torch.zeros(len(order), dtype=torch.bool)
    for label, name in enumerate(files.classes):
        members = order[files.targets[order] == label]
        if len(members) < MIN_IMAGES_PER_CLASS:
            raise InputError(
                f"image-folder: class '{name}' must have at least {MIN_IMAGES_PER_CLASS} images, found 1; "
                "add one, or remove the class"
            )
        is_test[members[: max(1, round(test * len(members)))]] = True
    return {"train": files.at((~is_test).nonzero().flatten()), "test": files.at(is_test.nonzero().flatten())}


def _list_files(folder: Path) -> LabelledFiles:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    paths: list[Path] = []
    targets: list[int] = []
    for label, name in enumerate(classes):
        images = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not images:
            raise InputError(f"{folder / name} contains no images; supported: {', '.join(sorted(SUFFIXES))}")
        paths += images
        targets += [label] * len(images)
    if len(classes) < MIN_CLASSES:
        found = f"only '{classes[0]}'" if classes else "none"
        raise InputError(f"{folder} must contain one subfolder per class, at least {MIN_CLASSES}, found {found}")
    return LabelledFiles(paths, torch.tensor(targets), classes)


def _shorter_side(size: int, crop: float) -> int:
    return round(size / crop)


def _load(files: LabelledFiles, size: int, channels: int, crop: float) -> Split:
    """Read the images into memory if they fit into `MAX_IN_MEMORY_BYTES`; otherwise leave them on disk."""
    images = ImageFiles(files, size, channels, crop)
    if len(files.paths) * channels * size**2 > MAX_IN_MEMORY_BYTES:
        return images
    pixels = torch.empty(len(images), channels, size, size, dtype=torch.uint8)  # stacking would hold all of them twice
    for position, image in enumerate(pixels):
        image.copy_(images[position][0])
    return pixels, files.targets


class ImageFiles(Dataset[tuple[Tensor, Tensor]]):
    """Images (channels, size, size) uint8 with their class indices; each is read from its file when it is needed."""

    def __init__(self, files: LabelledFiles, size: int, channels: int, crop: float) -> None:
        self.files, self.size, self.channels = files, size, channels
        self.shorter_side = _shorter_side(size, crop)

    def __len__(self) -> int:
        return len(self.files.paths)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        path = self.files.paths[position]
        try:
            with Image.open(path) as file:
                pixels = pil_to_tensor(file.convert("RGB" if self.channels == 3 else "L"))
        except Exception as error:  # decoders raise errors of any class for a damaged file
            raise InputError(f"cannot read the image {path} ({error}); repair or remove it") from error
        resized = resize(pixels, [self.shorter_side], InterpolationMode.BILINEAR, antialias=True)
        return center_crop(resized, [self.size, self.size]), self.files.targets[position]
