"""The settings of low rank."""

from __future__ import annotations

from pydantic import Field, model_validator

import toolkit

DEFAULT_ENERGY = 0.9


class Params(toolkit.Params):
    """How small the factors are, which layers have them, and whether data decide what they keep."""

    energy: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of each layer's squared singular values that its factors keep at least (default: "
        f"{DEFAULT_ENERGY} where neither rank nor amount is set)",
    )
    rank: float | None = Field(
        default=None, gt=0, le=1, description="rank of the factors, as a share of the layer's full rank"
    )
    amount: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of the network's float parameters that goes at least; all layers keep the same energy, as "
        "much as that allows",
    )
    data_aware: bool = Field(
        default=False,
        description="keep what matters for the layers' outputs on train samples, instead of what matters for weights",
    )
    samples: int = Field(
        default=1024, ge=1, le=10**6, description="data_aware: samples of train that layers are looked at on"
    )
    layers: list[str] = Field(
        default=["*"], min_length=1, description="name patterns of the layers to factor, such as 'layer3.*'"
    )
    exclude: list[str] = Field(default=[], description="name patterns of the layers to leave alone")

    @model_validator(mode="after")
    def _one_measure(self) -> Params:
        named = [name for name in ("energy", "rank", "amount") if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} exclude each other; set one of them")
        return self
