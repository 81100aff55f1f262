"""Chains for real networks on a user's photos, how they are shown, and what others have published."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from experiments import Experiment, Measure, Run, number

RESULTS = Path(__file__).parents[1] / "cifar" / "results.json"
SHORT = "a few epochs"  # a variation for a first look: what a chain does, not what it can reach


class Shown(NamedTuple):
    """A line of the table: from which row of which recipe to which.

    `begin` and `end` are the networks that are compared. Where both are files of a runtime, they are timed in it.
    """

    network: str
    does: str
    recipe: str
    begin: str
    end: str
    macs_of: str


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


GENTLE = {"optimizer": "sgd", "weight_decay": 1e-4, "schedule": "cosine", "precision": "bfloat16"}
FEW = {"epochs": 8, "lr": 0.1, "optimizer": "sgd", "weight_decay": 5e-4, "schedule": "cosine", "precision": "bfloat16"}
NETWORKS = (
    Experiment(
        "cifar/resnet56",
        {
            "": {},
            SHORT: {
                "model.training": {"epochs": 1, "lr": 0.01, **GENTLE},
                "stages.1.params.steps": 3,
                "stages.1.finetune": {"epochs": 2, "lr": 0.03, **GENTLE},
            },
        },
        (accuracy("baseline"), gained("int8 file", "baseline"), Measure("bytes", number("int8 file", "size_bytes"))),
    ),
    Experiment(
        "cifar/resnet20",
        {
            "": {},
            SHORT: {
                "model.training": {"epochs": 1, "lr": 0.01, **GENTLE},
                "stages.1.finetune": FEW,
                "stages.2.finetune": FEW,
            },
        },
        (gained("distilled", "alone"),),
    ),
    Experiment("cifar/sparse", measures=(gained("90 percent", "baseline"), gained("95 percent", "baseline"))),
)
SHOWN = (
    Shown("ResNet-56", "channels, int8", "cifar/resnet56", "float file", "int8 file", "channels"),
    Shown("ResNet-20", "learns from ResNet-56", "cifar/resnet20", "baseline", "distilled", "distilled"),
    Shown("ResNet-56", "90 % zeros", "cifar/sparse", "baseline", "90 percent", "90 percent"),
    Shown("ResNet-56", "95 % zeros", "cifar/sparse", "baseline", "95 percent", "95 percent"),
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
