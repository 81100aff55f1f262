"""The settings of channels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

import toolkit

Of = Literal["parameters", "macs", "size_bytes", "latency_ms"]
Scope = Literal["global", "layer"]
Criterion = Literal["l1", "l2", "batch-norm", "taylor", "activation", "geometric-median", "random"]


class Params(toolkit.Params):
    """How much goes, which channels, and when."""

    amount: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="share of the network that goes at least, as `of` counts it; of the time, about so much. "
        "`round_to` may take more with it, and the row says how much went",
    )
    of: Of = Field(
        default="parameters",
        description="what `amount` is a share of: parameters, MACs of convolutions and linear layers, the bytes of all "
        "tensors, or the time of a call, found by timing as the recipe's export runs the model",
    )
    scope: Scope = Field(default="global", description="rank all layers together, or cut each layer by the same share")
    criterion: Criterion = Field(
        default="l2",
        description="remove channels with small weights (l1, l2), a small scale of their batch norm (batch-norm), "
        "little influence on the loss (taylor), small weights times inputs (activation), or others like them "
        "(geometric-median); with random, any (as a control)",
    )
    blocks: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="share of the residual blocks that go first, as a whole: those that change their inputs least, or "
        "any with criterion = 'random'; what goes of them counts for `amount`",
    )
    samples: int = Field(
        default=1024,
        ge=1,
        le=10**6,
        description="taylor, activation, blocks: samples of train that scores are computed on",
    )
    floor: float = Field(default=0.1, ge=0, lt=1, description="share of each layer's channels that stays in any case")
    round_to: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="a layer keeps a multiple of so many channels; layers with fewer than twice as many are cut freely",
    )
    steps: int = Field(
        default=1,
        ge=1,
        le=100,
        description="remove in so many steps, with equal parts of the training between them; 1 to remove all at once",
    )
    shrink: float = Field(
        default=0,
        ge=0,
        le=100,
        description="choose the channels when the training begins, draw them towards zero while it runs, and cut them "
        "out at its end: factor of the norms of their weights in the loss; 0 to remove before the training",
    )
    reestimate: bool = Field(
        default=True, description="estimate the statistics of batch norms again once channels have gone"
    )
    layers: list[str] = Field(
        default=["*"], min_length=1, description="name patterns of the layers to cut, such as 'layer3.*'"
    )
    exclude: list[str] = Field(
        default=[], description="name patterns of the layers to leave alone, and of modules that cannot be traced"
    )

    @field_validator("shrink")
    @classmethod
    def _at_once(cls, shrink: float, info: ValidationInfo) -> float:
        if shrink and info.data.get("steps", 1) > 1:
            raise ValueError("shrinking ends with one cut, steps have several; leave out shrink or steps")
        return shrink

    @property
    def needs_finetune(self) -> bool:
        """Steps are taken, and channels shrink, while the stage trains."""
        return self.steps > 1 or self.shrink > 0

    @property
    def asks_timer(self) -> bool:
        """A share of the time is found by timing."""
        return self.of == "latency_ms"
