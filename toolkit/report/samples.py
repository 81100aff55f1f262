"""The samples that only the baseline answers correctly, with their images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from toolkit.data.splits import Data
from toolkit.metrics import Answers
from toolkit.number_text import printable
from toolkit.report.details import Lost, Sample

MAX_SAMPLES = 24
MAX_PIXELS = 64  # pixels a side
MIN_PIXELS = 4


def lost_samples(before: Answers, after: Answers, data: Data, split: str) -> Lost | None:
    """Count the samples that only one of two models answers correctly.

    The result lists up to `MAX_SAMPLES` that only `before` does; it is None for a task without correct answers.
    """
    if before.correct is None or after.correct is None:
        return None
    lost = (before.correct & ~after.correct).nonzero().flatten()
    gained = int((after.correct & ~before.correct).sum())
    samples = _shown(lost[:MAX_SAMPLES], before, after, data, split)
    return Lost(split=split, lost=len(lost), gained=gained, samples=samples)


def picture(image: Tensor) -> str | None:
    """Return an image (1|3, H, W) as a PNG in a data URI; None for any other tensor."""
    if image.dim() != 3 or image.shape[0] not in (1, 3) or min(image.shape[1:]) < MIN_PIXELS or image.is_complex():
        return None
    from PIL import Image

    pixels = image.detach().float().cpu().nan_to_num(0.0, 0.0, 0.0)
    low, high = pixels.min(), pixels.max()
    pixels = ((pixels - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    shown = Image.fromarray(array)
    shown.thumbnail((MAX_PIXELS, MAX_PIXELS))
    file = io.BytesIO()
    shown.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _shown(lost: Tensor, before: Answers, after: Answers, data: Data, split: str) -> list[Sample]:
    if not len(lost):
        return []
    classes = class_names(data, split)
    batch = next(iter(data.batches(split, order=lost, batch_size=len(lost))))
    return [
        Sample(
            index=index,
            target=_word(batch.targets, place, classes),
            baseline=_word(before.given, index, classes) or "right",
            final=_word(after.given, index, classes) or "wrong",
            picture=_picture_at(batch.inputs, place),
        )
        for place, index in enumerate(lost.tolist())
    ]


def class_names(data: Data, split: str) -> Sequence[str]:
    """Return the names of the classes: those of the data, or a dataset's `classes`; nothing if there are none."""
    samples: Any = data.split(split)
    while isinstance(samples, Subset):
        samples = samples.dataset
    names = data.classes or getattr(samples, "classes", ())
    is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    return names if is_list else ()


def _word(values: Any, place: int, classes: Sequence[str]) -> str:
    """Return the target or answer of a sample as its class or number, an empty string if it is not one number."""
    if not isinstance(values, Tensor) or values[place].numel() != 1:
        return ""
    number = values[place].item()
    is_class = isinstance(number, int) and 0 <= number < len(classes)
    return printable(classes[int(number)] if is_class else number)


def _picture_at(inputs: Any, place: int) -> str | None:
    """Return the image of a sample: the first of its inputs that is one, None without one."""
    several = inputs.values() if isinstance(inputs, Mapping) else inputs
    parts = [inputs] if isinstance(inputs, Tensor) else several
    pictures = (picture(part[place]) for part in parts if isinstance(part, Tensor) and part.dim() == 4)
    return next((uri for uri in pictures if uri), None)
