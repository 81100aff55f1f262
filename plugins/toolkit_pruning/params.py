"""The settings of pruning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

import toolkit
from toolkit_pruning.ranking import Scope

Criterion = Literal["magnitude", "lamp", "taylor", "wanda", "movement", "random"]
CriterionOfWeights = Literal["magnitude", "lamp", "random"]

IMPLIED: Mapping[str, Mapping[str, str]] = {"wanda": {"scope": "row"}, "movement": {"schedule": "gradual"}}
"""By criterion, what replaces the default of other settings."""


class Params(toolkit.Params):
    """Which weights become zero, how many of them, and when."""

    sparsity: float = Field(
        default=0.5, ge=0, lt=1, description="fraction of weights that are zero, including those of earlier stages"
    )
    scope: Scope = Field(
        default="global",
        description="rank all layers together, or each layer, or each row of a layer (the weights of one output) "
        "separately; with wanda, by default each row",
    )
    criterion: Criterion = Field(
        default="magnitude",
        description="prune the smallest weights; with lamp, those that matter least to their layer, which is fairer to "
        "small layers when all are ranked together; with taylor, those without which the loss changes least, to first "
        "order; with wanda, those that are smallest times their inputs; with movement, those that training draws "
        "towards zero, by scores that are trained along; with random, any (as a control)",
    )
    samples: int = Field(
        default=1024, ge=1, le=10**6, description="taylor, wanda: samples of train that scores are computed on"
    )
    scores_lr: float = Field(default=1e-2, gt=0, description="movement: learning rate of the scores")
    schedule: Literal["one-shot", "gradual"] = Field(
        default="one-shot",
        description="prune at once, or gradually during finetune; with movement, always gradually",
    )
    schedule_end: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="gradual: fraction of the training steps after which the sparsity is reached",
    )
    steps_between: int = Field(default=20, ge=1, description="gradual: training steps between two prunings")
    pattern: str = Field(
        default="unstructured",
        description="'unstructured' for single weights, or 'N:M' such as '2:4', which keeps N of every M consecutive "
        "weights along a layer's inputs, whatever the scope; implies sparsity 1 - N/M",
    )
    scan: bool = Field(
        default=False,
        description="prune each layer alone to several sparsities, measure the quality on the validation split (on "
        "train if there is none), and plot it in the report",
    )
    layers: list[str] = Field(
        default=["*"], min_length=1, description="name patterns of the layers to prune, such as 'fc*'"
    )
    exclude: list[str] = Field(default=[], description="name patterns of the layers to leave alone")

    @property
    def needs_finetune(self) -> bool:
        """A gradual schedule prunes only while the stage trains."""
        return self.schedule == "gradual"

    @model_validator(mode="before")
    @classmethod
    def _imply(cls, values: Any) -> Any:
        # Filled in here, so that a recipe that is written out with all its values can be read back.
        if not isinstance(values, Mapping):
            return values
        kept = n_of_m(values.get("pattern"))
        implied = {"sparsity": 1 - kept[0] / kept[1]} if kept else {}
        return {**implied, **IMPLIED.get(str(values.get("criterion")), {}), **values}

    @field_validator("criterion")
    @classmethod
    def _has_scope(cls, criterion: Criterion, info: ValidationInfo) -> Criterion:
        if criterion == "wanda" and info.data.get("scope") == "global":
            raise ValueError("wanda ranks weights of a row or layer, not of all layers; set scope to 'row' or 'layer'")
        return criterion

    @field_validator("schedule")
    @classmethod
    def _learns(cls, schedule: str, info: ValidationInfo) -> str:
        if schedule == "one-shot" and info.data.get("criterion") == "movement":
            raise ValueError("movement learns its scores while the stage trains; set schedule to 'gradual'")
        return schedule

    @field_validator("scan")
    @classmethod
    def _has_scores(cls, scan: bool, info: ValidationInfo) -> bool:
        if scan and info.data.get("criterion") == "movement":
            raise ValueError("movement has no scores before the training; leave out scan")
        return scan

    @field_validator("pattern")
    @classmethod
    def _agrees(cls, pattern: str, info: ValidationInfo) -> str:
        kept = n_of_m(pattern)
        if kept is None:
            if pattern != "unstructured":
                raise ValueError(f"must be 'unstructured' or N:M with 0 < N < M, found '{pattern}'")
            return pattern
        if info.data.get("schedule") == "gradual":
            gradual = (
                "movement, which prunes gradually" if info.data.get("criterion") == "movement" else "a gradual schedule"
            )
            raise ValueError(f"pattern {pattern} does not work with {gradual}; leave out one of the two")
        implied = 1 - kept[0] / kept[1]
        if abs(info.data.get("sparsity", implied) - implied) >= 0.005:  # 0.67 may stand for 2/3
            raise ValueError(f"{pattern} implies sparsity {implied:.4g}, found {info.data['sparsity']:g}")
        return pattern


def n_of_m(pattern: Any) -> tuple[int, int] | None:
    """N and M of a pattern such as `2:4`; None for anything else."""
    numbers = re.fullmatch(r"(\d{1,9}):(\d{1,9})", pattern) if isinstance(pattern, str) else None
    n, m = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    return (n, m) if 0 < n < m else None
