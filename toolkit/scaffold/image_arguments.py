"""The arguments of a folder of images in a new recipe: how images become inputs, as values that can be edited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

from toolkit.data.folder import image_folder
from toolkit.data.normalization import IMAGENET_MEAN, IMAGENET_STD, pixel_statistics
from toolkit.data.splits import Data
from toolkit.recipe.tables import ModelTable
from toolkit.scaffold.drafts import COMMENT_COLUMN
from toolkit.scaffold.pretrained import why_pretrained
from toolkit.scaffold.templates import toml

IMAGENET_CROP = 0.875  # 224 pixels of 256


@dataclass(frozen=True)
class Argument:
    """An argument of a data source, and what a reader has to know of its value."""

    name: str
    value: Any
    comment: str = ""

    @property
    def line(self) -> str:
        """The argument as a line of TOML."""
        setting = f"{self.name} = {toml(self.value)}"
        return f"{setting:<{COMMENT_COLUMN - 1}} # {self.comment}" if self.comment else setting


def image_arguments(model: ModelTable, data: Data, chosen: Mapping[str, Any]) -> Iterator[Argument]:
    """Yield the arguments of an image folder: those of the user, then size, crop, mean and standard deviation.

    The statistics are those of the training images, or ImageNet's if the model is pretrained and the images are in
    color.
    """
    yield from (Argument(name, value) for name, value in chosen.items())
    defaults = {name: each.default for name, each in signature(image_folder).parameters.items()}
    is_colored = chosen.get("channels", defaults["channels"]) == len(IMAGENET_MEAN)
    reason = why_pretrained(model) if is_colored else None
    crop = IMAGENET_CROP if reason else defaults["crop"]
    suggested = [
        Argument("size", defaults["size"], "height and width in pixels"),
        Argument("crop", crop, "fraction of the shorter side that the square covers"),
    ]
    if not {"mean", "std"} <= chosen.keys():  # the statistics take a look at many images
        suggested += _of_imagenet(reason) if reason else _of_pixels(data)
    yield from (argument for argument in suggested if argument.name not in chosen)


def _of_imagenet(reason: str) -> Iterator[Argument]:
    comment = f"ImageNet's, because {reason}; must be what it was trained with"
    yield Argument("mean", list(IMAGENET_MEAN), comment)
    yield Argument("std", list(IMAGENET_STD))


def _of_pixels(data: Data) -> Iterator[Argument]:
    mean, std, count = pixel_statistics(data)
    yield Argument("mean", mean, f"of each channel, in {count:,} training images, for pixels from 0 to 1")
    yield Argument("std", std)
