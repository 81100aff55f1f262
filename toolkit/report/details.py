"""Curves, layers, weights and samples for the page, which `details.json` contains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

DETAILS = "details.json"
Count = Annotated[int, Field(ge=0)]
FORMAT: Literal[1] = 1
# In the first files of format 1.
FORMER_SPELLING = "toolkit details 1"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Curve(_Part):
    """Loss of one training: at most `MAX_POINTS` points, each the mean since the previous point."""

    number: Count
    stage: str
    steps: Count
    step: list[Count]
    loss: list[float]


class Histogram(_Part):
    """Distribution of the nonzero weights: counts in equal bins from `-limit` to `limit`."""

    limit: float = Field(gt=0)
    counts: list[Count]


class Layer(_Part):
    """A layer of a row's model: its class, its weights as the layer sees them, and the bytes that store them."""

    layer: str
    kind: str
    weights: Count
    zeros: Count
    precision: str
    size_bytes: Count
    histogram: Histogram | None = None

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are zero."""
        return self.zeros / self.weights if self.weights else 0.0


class Sample(_Part):
    """A sample that only the baseline answers correctly; `picture` is a PNG as a data URI."""

    index: Count
    target: str
    baseline: str
    final: str
    # The page must not load anything else, whoever wrote the file.
    picture: str | None = Field(default=None, pattern=r"^data:image/png;base64,[A-Za-z0-9+/]+={0,2}$")


class Lost(_Part):
    """Number of samples that only the baseline answers correctly (`lost`) or only the final model (`gained`)."""

    split: str
    lost: Count
    gained: Count
    samples: list[Sample]


class Details(_Part):
    """Content of `details.json`; `layers` has a list for each row."""

    format: Annotated[Literal[1], BeforeValidator(lambda it: FORMAT if it == FORMER_SPELLING else it)] = FORMAT
    curves: list[Curve] = []
    layers: list[list[Layer]] = []
    lost: Lost | None = None
