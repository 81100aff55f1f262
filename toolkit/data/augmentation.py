"""Random image augmentation for whole batches, selected by `[data] augment`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

from toolkit.errors import InputError


def affine(
    images: Tensor,
    degrees: float = 10.0,
    scale: float = 0.1,
    shear_degrees: float = 10.0,
    shift: float = 0.08,
) -> Tensor:
    """Rotate, scale, shear and shift each image by random amounts, drawn uniformly between minus and plus the maximum.

    Interpolation is bilinear; pixels from outside the image repeat the border. Simard, Steinkraus and Platt, "Best
    practices for convolutional neural networks applied to visual document analysis", 2003.

    Args:
        images: (N, C, H, W) of any float dtype; not modified.
        degrees: maximum rotation.
        scale: maximum change of the size, as a fraction; height and width are drawn independently.
        shear_degrees: maximum shear angle.
        shift: maximum shift as a fraction of height and width, which are drawn independently.

    Raises:
        InputError: `images` has another shape or dtype.
    """
    _check_images(images, "affine")
    return _warped(images, _grid(images, degrees, scale, shear_degrees, shift))


def elastic(
    images: Tensor,
    displacement: float = 0.05,
    points: int = 4,
    degrees: float = 10.0,
    scale: float = 0.1,
    shear_degrees: float = 10.0,
    shift: float = 0.08,
) -> Tensor:
    """Distort each image smoothly, in addition to the random transform of `affine`.

    A grid of `points` × `points` control points is displaced at random, and bicubic interpolation moves the pixels in
    between. Simard, Steinkraus and Platt (2003) smooth a field of random displacements instead, to the same effect.

    Args:
        images: (N, C, H, W) of any float dtype; not modified.
        displacement: maximum displacement of a point, as a fraction of height and width.
        points: control points per direction, at least 2; more points give finer distortions.
        degrees, scale, shear_degrees, shift: as in `affine`.

    Raises:
        InputError: `images` has another shape or dtype.
    """
    _check_images(images, "elastic")
    offsets = 2 * displacement * (2 * torch.rand(len(images), 2, points, points, device=images.device) - 1)
    field = interpolate(offsets.to(images.dtype), images.shape[2:], mode="bicubic", align_corners=True)
    grid = _grid(images, degrees, scale, shear_degrees, shift)
    return _warped(images, grid.add_(field.permute(0, 2, 3, 1)))


def translation(images: Tensor, pixels: int = 2, flip: bool = False) -> Tensor:
    """Shift each image by a random whole number of pixels; pixels from outside the image repeat the border.

    With `flip`, half of the images, drawn at random, are mirrored first, which suits photos but not digits.

    Args:
        images: (N, C, H, W) of any float dtype; not modified.
        pixels: maximum shift in each direction.
        flip: whether to exchange left and right in half of the images.

    Raises:
        InputError: `images` has another shape or dtype.
    """
    _check_images(images, "translation")
    if flip:
        mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    height, width = images.shape[2:]
    padded = pad(images, (pixels, pixels, pixels, pixels), mode="replicate")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * pixels + 1, (2, len(images)), device=images.device)
    return windows[torch.arange(len(images), device=images.device), :, down, right]


def _grid(images: Tensor, degrees: float, scale: float, shear_degrees: float, shift: float) -> Tensor:
    """Return where each pixel comes from: (N, H, W, 2), −1 and 1 at the borders of the image."""
    height, width = images.shape[2:]
    rotation, shear, *factors = (2 * torch.rand(6, len(images), device=images.device) - 1).unbind()
    across, down = (torch.exp2(math.log2(1 + scale) * part) for part in factors[:2])
    angle, slope = rotation * math.radians(degrees), torch.tan(shear * math.radians(shear_degrees))
    cosine, sine, ratio = torch.cos(angle), torch.sin(angle), height / width
    x = torch.stack([cosine * across, (slope * cosine - sine) * across * ratio, 2 * shift * factors[2]], dim=1)
    y = torch.stack([sine * down / ratio, (slope * sine + cosine) * down, 2 * shift * factors[3]], dim=1)
    return affine_grid(torch.stack([x, y], dim=1).to(images.dtype), list(images.shape), align_corners=False)


def _warped(images: Tensor, grid: Tensor) -> Tensor:
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


AUGMENTATIONS: dict[str, Callable[..., Any]] = {"affine": affine, "elastic": elastic, "translation": translation}


def _check_images(images: Tensor, name: str) -> None:
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
        found = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"augment = '{name}' requires float images (N, C, H, W), found {found}")
