"""What a recipe may say of codebooks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

import toolkit
from toolkit_codebook.clustering import Initialisation

Bits = Annotated[int, Field(ge=1, le=8)]


class Params(toolkit.Params):
    """How many values the entries of a weight share, and where the first ones lie."""

    bits: Bits = Field(default=5, description="2^bits values a weight, and zero; the most where a budget is given")
    overrides: dict[str, Bits] = Field(default={}, description="bits by layer, as { 'fc*' = 4 }; the most exact counts")
    budget_bytes: int | None = Field(
        default=None, ge=1, description="for all these weights together, by entropy: chooses the bits of each"
    )
    initialisation: Initialisation = Field(default="linear", description="evenly spaced, or by density")
    values: Literal["float16", "float32"] = Field(
        default="float16", description="what the shared values are rounded to"
    )
    layers: list[str] = Field(default=["*"], min_length=1, description="names as patterns such as 'fc*'")
    exclude: list[str] = Field(default=[], description="names of layers to leave alone, as patterns")
