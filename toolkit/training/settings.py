"""The settings of a training, as a recipe writes them."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from toolkit.params import Table

Precision: TypeAlias = Literal["float32", "bfloat16", "auto"]


class TrainingSettings(Table):
    """A recipe's `training` or `finetune` table."""

    epochs: int = Field(default=1, ge=1, description="passes over the training data")
    lr: float = Field(default=1e-3, gt=0, description="learning rate (one-cycle schedule: its maximum)")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="AdamW, or SGD with momentum")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum (sgd only)")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay: decoupled (adamw) or L2 (sgd)")
    schedule: Literal["one-cycle", "cosine", "constant"] = Field(
        default="one-cycle",
        description="learning rate over the steps: up and down, down to zero, or constant",
    )
    batch_size: int | None = Field(default=None, ge=1, description="samples per step (default: that of the data)")
    precision: Precision = Field(
        default="float32",
        description="precision of the forward and backward pass; auto times both and uses the faster one",
    )
    clip_norm: float | None = Field(default=None, gt=0, description="maximum norm of all gradients together")
    augment: bool = Field(default=True, description="apply the data's augmentation, if it has one")
