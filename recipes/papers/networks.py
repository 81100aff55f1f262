"""Chains for real networks, how they are shown, and what others have published."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from experiments import Experiment, Measure, Run, number

RESULTS = Path(__file__).with_name("networks.json")
PAGES = (Path(__file__).parents[2] / "docs" / "results.md", Path(__file__).parents[1] / "cifar" / "README.md")


class Shown(NamedTuple):
    """A line of the table: what the row `end` of a recipe is compared with the row `begin`.

    Where `end` is a file of a runtime, both are timed in it.
    """

    network: str
    task: str
    recipe: str
    end: str
    macs_of: str
    begin: str = "baseline"


class Published(NamedTuple):
    """A pruned ResNet-56 on CIFAR-10: percent of right answers before and after, and how many times fewer MACs."""

    method: str
    before: float
    after: float
    times: float


def accuracy(stage: str) -> Measure:
    """The right answers of a stage, in percent."""
    return Measure(f"% right, {stage}", lambda run: 100 - 100 * run[stage]["errors"] / run[stage]["samples"])


def gained(stage: str, over: str) -> Measure:
    """How much more a stage answers right than another, in points."""

    def points(run: Run) -> float:
        return 100 * (run[over]["errors"] - run[stage]["errors"]) / run[stage]["samples"]

    return Measure(f"points, {stage} over {over}", points)


def lost(end: str) -> tuple[Measure, ...]:
    """What the last row of a chain loses, and its bytes."""
    return (accuracy("baseline"), gained(end, "baseline"), Measure("bytes", number(end, "size_bytes")))


NETWORKS = (
    Experiment("cifar/resnet56", measures=lost("int8 file")),
    Experiment("cifar/resnet20", measures=(gained("distilled", "alone"),)),
    Experiment("cifar/sparse", measures=(gained("90 percent", "baseline"), gained("95 percent", "baseline"))),
    Experiment("real/crepe", measures=lost("onnxruntime")),
    Experiment("real/minilm", measures=lost("onnxruntime")),
    Experiment("real/tiara", measures=lost("onnxruntime")),
)
PHOTOS = "cifar/"  # recipes whose photos can be held out
SHOWN = (
    Shown("ResNet-56", "photos", "cifar/resnet56", "int8 file", "channels"),
    Shown("ResNet-56, 90 % zeros", "photos", "cifar/sparse", "90 percent", "90 percent"),
    Shown("ResNet-56, 95 % zeros", "photos", "cifar/sparse", "95 percent", "95 percent"),
    Shown("ResNet-20 from a ResNet-56", "photos", "cifar/resnet20", "distilled", "distilled", "alone"),
    Shown("all-MiniLM-L6-v2", "which paragraph goes on", "real/minilm", "onnxruntime", "channels"),
    Shown("CREPE", "pitch of tones in noise", "real/crepe", "onnxruntime", "quantization"),
    Shown("tiara", "origin of pieces of DNA", "real/tiara", "onnxruntime", "channels"),
)
# The table of Torch-Pruning, https://github.com/VainF/Torch-Pruning, reproduce/readme.md at 2211538, which cites the
# papers. From table 2 of https://doi.org/10.1155/2022/7775419 are PPSM, DMC, SCP, LFPC, DPFPS and SRR-GR, and HRank's
# accuracy, where the first has 92.17.
PUBLISHED = (
    Published("Geometric median", 93.59, 93.26, 1.70),
    Published("Polarization", 93.80, 93.83, 1.88),
    Published("CP", 92.80, 91.80, 2.00),
    Published("AMC", 92.80, 91.90, 2.00),
    Published("HRank", 93.26, 93.17, 2.00),
    Published("DMC", 93.62, 93.69, 2.00),
    Published("SCP", 93.69, 93.23, 2.06),
    Published("SFP", 93.59, 93.36, 2.11),
    Published("LFPC", 93.59, 93.34, 2.12),
    Published("DPFPS", 93.81, 93.20, 2.12),
    Published("ResRep", 93.71, 93.71, 2.12),
    Published("GReg, as DepGraph ran it", 93.53, 93.55, 2.12),
    Published("DepGraph", 93.53, 93.77, 2.13),
    Published("SRR-GR", 93.38, 93.75, 2.16),
    Published("PPSM", 93.44, 93.57, 2.20),
    Published("GBN", 93.10, 92.77, 2.51),
    Published("C-SGD", 93.39, 93.44, 2.55),
    Published("GReg-1", 93.36, 93.18, 2.55),
    Published("GReg-2", 93.36, 93.36, 2.55),
    Published("AFP", 93.93, 92.94, 2.56),
    Published("DepGraph", 93.53, 93.64, 2.57),
)
