"""The settings of codebooks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

import toolkit
from toolkit_codebook.clustering import Initialisation

Bits = Annotated[int, Field(ge=1, le=8)]


class Params(toolkit.Params):
    """How many values the entries of a weight share, and where these values start."""

    bits: Bits = Field(
        default=5, description="2^bits values per weight, besides zero; the maximum if budget_bytes is set"
    )
    overrides: dict[str, Bits] = Field(
        default={}, description="bits by name pattern, such as { 'fc*' = 4 }; the most specific pattern wins"
    )
    budget_bytes: int | None = Field(
        default=None,
        ge=1,
        description="bytes for all these weights together, by entropy; chooses the bits of each weight",
    )
    initialisation: Initialisation = Field(
        default="linear", description="first values evenly spaced (linear), or where most weights are (density)"
    )
    values: Literal["float16", "float32"] = Field(
        default="float16", description="dtype that the shared values are rounded to"
    )
    layers: list[str] = Field(
        default=["*"], min_length=1, description="name patterns of the layers whose weights share values, such as 'fc*'"
    )
    exclude: list[str] = Field(default=[], description="name patterns of the layers to leave alone")
