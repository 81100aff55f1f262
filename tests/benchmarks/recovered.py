"""The share of a loss that a better method recovers, with an interval, and the file that such results are kept in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from toolkit.runner.environment import describe
from toolkit.statistics import Floats
from toolkit.storage.files import write_file

RESAMPLES = 4000
CONFIDENCE = 0.95


class Recovered(NamedTuple):
    """What two methods lose, in points, and the share of the first loss that the second one does not have.

    The intervals are those of a bootstrap over samples. A share is None where the first loss may be zero.
    """

    lost: float
    lost_interval: list[float]
    left: float
    left_interval: list[float]
    share: float | None
    share_interval: list[float] | None

    def __str__(self) -> str:
        if self.share is None or self.share_interval is None:
            return "not defined: the loss may be zero"
        return f"{100 * self.share:.0f} % ({100 * self.share_interval[0]:.0f} to {100 * self.share_interval[1]:.0f})"


def recovered(before: Floats, plain: Floats, better: Floats) -> Recovered:
    """Compare what is wrong with each of the same samples (N,): before, with the plain method, and with the better."""
    lost, left = 100 * (plain - before), 100 * (better - before)
    means = _resampled(np.stack([lost, left]))
    lost_interval, left_interval = (_interval(each) for each in means)
    if lost_interval[0] <= 0:
        return Recovered(float(lost.mean()), lost_interval, float(left.mean()), left_interval, None, None)
    share = 1 - float(left.mean() / lost.mean())
    with np.errstate(divide="ignore"):  # few of the samples that are drawn may have no loss
        interval = _interval(1 - means[1] / means[0])
    return Recovered(float(lost.mean()), lost_interval, float(left.mean()), left_interval, share, interval)


def _resampled(values: Floats) -> Floats:
    """The means of values (K, N) over samples that are drawn anew, (K, RESAMPLES)."""
    draw, count = np.random.default_rng(0), values.shape[1]
    return np.stack([values[:, draw.integers(count, size=count)].mean(1) for _ in range(RESAMPLES)], axis=1)


def _interval(values: Floats) -> list[float]:
    tail = (1 - CONFIDENCE) / 2
    return [float(each) for each in np.quantile(values, [tail, 1 - tail])]


def keep(file: Path, case: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Put a result into a file, in place of the one of the same case."""
    entries = json.loads(file.read_text()) if file.is_file() else []
    others = [entry for entry in entries if entry["case"] != case]
    entry = {"case": dict(case), **measured, **_environment()}
    ordered = sorted([*others, entry], key=lambda entry: [str(value) for value in entry["case"].values()])
    write_file(file, (json.dumps(ordered, indent=1) + "\n").encode())


def _environment() -> dict[str, Any]:
    known = describe(torch.device("cpu"))
    return {
        "date": date.today().isoformat(),
        "processor": f"{known['processor']}, {known['capability']}",
        "versions": {name: known[name] for name in ("python", "torch", "toolkit")},
    }
