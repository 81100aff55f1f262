"""Pictures changed at random while a network trains, a whole batch at a time: `[data] augment`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

from toolkit.errors import InputError


def affine(
    pictures: Tensor,
    degrees: float = 10.0,
    scale: float = 0.1,
    shear_degrees: float = 10.0,
    shift: float = 0.08,
) -> Tensor:
    """Rotate, scale, shear and shift every picture by amounts of its own, uniform in plus and minus those given.

    Bilinear; what comes in from outside is the nearest pixel of the border. Simard, Steinkraus and Platt, "Best
    practices for convolutional neural networks applied to visual document analysis", 2003.

    Args:
        pictures: (N, C, H, W) of any float dtype; not changed.
        degrees: of rotation.
        scale: of the size, as a fraction, in both directions independently.
        shear_degrees: of horizontal lines against vertical ones.
        shift: in both directions independently, as a fraction of the height and of the width.
    """
    _require_pictures(pictures, "affine")
    return _warped(pictures, _grid(pictures, degrees, scale, shear_degrees, shift))


def elastic(
    pictures: Tensor,
    displacement: float = 0.05,
    points: int = 4,
    degrees: float = 10.0,
    scale: float = 0.1,
    shear_degrees: float = 10.0,
    shift: float = 0.08,
) -> Tensor:
    """Bend every picture smoothly, besides what `affine` does to it.

    A square of `points` × `points` points is displaced at random, and what lies between them follows (bicubic). Simard,
    Steinkraus and Platt (2003) smooth a field of random displacements instead, to the same end.

    Args:
        pictures: (N, C, H, W) of any float dtype; not changed.
        displacement: of a point in both directions, uniform in plus and minus that fraction of height and width.
        points: in each direction, from 2; the more, the finer the bends.
        degrees, scale, shear_degrees, shift: as in `affine`.
    """
    _require_pictures(pictures, "elastic")
    moved = 2 * displacement * (2 * torch.rand(len(pictures), 2, points, points, device=pictures.device) - 1)
    field = interpolate(moved.to(pictures.dtype), pictures.shape[2:], mode="bicubic", align_corners=True)
    grid = _grid(pictures, degrees, scale, shear_degrees, shift)
    return _warped(pictures, grid.add_(field.permute(0, 2, 3, 1)))


def translation(pictures: Tensor, pixels: int = 2) -> Tensor:
    """Shift every picture by whole pixels, up to so many in each direction; what comes in repeats the border.

    Args:
        pictures: (N, C, H, W) of any float dtype; not changed.
        pixels: the farthest shift.
    """
    _require_pictures(pictures, "translation")
    height, width = pictures.shape[2:]
    wide = pad(pictures, (pixels, pixels, pixels, pixels), mode="replicate")
    windows = wide.unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * pixels + 1, (2, len(pictures)), device=pictures.device)
    return windows[torch.arange(len(pictures), device=pictures.device), :, down, right]


def _grid(pictures: Tensor, degrees: float, scale: float, shear_degrees: float, shift: float) -> Tensor:
    """Where each pixel comes from, (N, H, W, 2) in halves of width and height from the middle."""
    height, width = pictures.shape[2:]
    turn, slant, *rest = (2 * torch.rand(6, len(pictures), device=pictures.device) - 1).unbind()
    across, down = (torch.exp2(math.log2(1 + scale) * part) for part in rest[:2])
    angle, slope = turn * math.radians(degrees), torch.tan(slant * math.radians(shear_degrees))
    cosine, sine, ratio = torch.cos(angle), torch.sin(angle), height / width
    x = torch.stack([cosine * across, (slope * cosine - sine) * across * ratio, 2 * shift * rest[2]], dim=1)
    y = torch.stack([sine * down / ratio, (slope * sine + cosine) * down, 2 * shift * rest[3]], dim=1)
    return affine_grid(torch.stack([x, y], dim=1).to(pictures.dtype), list(pictures.shape), align_corners=False)


def _warped(pictures: Tensor, grid: Tensor) -> Tensor:
    return grid_sample(pictures, grid, padding_mode="border", align_corners=False)


AUGMENTATIONS: dict[str, Callable[..., Any]] = {"affine": affine, "elastic": elastic, "translation": translation}


def _require_pictures(pictures: Tensor, name: str) -> None:
    if not isinstance(pictures, Tensor) or pictures.dim() != 4 or not pictures.is_floating_point():
        found = f"{tuple(pictures.shape)} {pictures.dtype}" if isinstance(pictures, Tensor) else type(pictures).__name__
        raise InputError(f"augment = '{name}' is for pictures (N, C, H, W) in floats, and the inputs are {found}")
