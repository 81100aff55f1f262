"""What the page shows and `report.json` does not hold: curves, layers, weights and samples, as `details.json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DETAILS = "details.json"
Count = Annotated[int, Field(ge=0)]
FORMAT: Literal[1] = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Curve(_Part):
    """The loss of one training: at most `POINTS` points, each the mean over the steps since the point before."""

    number: Count
    stage: str
    steps: Count
    step: list[Count]
    loss: list[float]


class Histogram(_Part):
    """How the weights that are not zero are distributed: counts in equal bins from `-limit` to `limit`."""

    limit: float = Field(gt=0)
    counts: list[Count]


class Layer(_Part):
    """One layer of one row's model: its class, its weights as the layer sees them, and what they take to store."""

    layer: str
    kind: str
    weights: Count
    zeros: Count
    precision: str
    size_bytes: Count
    histogram: Histogram | None = None

    @property
    def sparsity(self) -> float:
        """The fraction of its weights that are zero."""
        return self.zeros / self.weights if self.weights else 0.0


class Sample(_Part):
    """One sample that the baseline answers rightly and the final model does not; `picture` is a PNG as a data URI."""

    index: Count
    target: str
    baseline: str
    final: str
    # Nothing else is ever put into a page, also where somebody wrote the file by hand.
    picture: str | None = Field(default=None, pattern=r"^data:image/png;base64,[A-Za-z0-9+/]+={0,2}$")


class Lost(_Part):
    """How many samples only the baseline answers rightly, how many only the final model, and some of the former."""

    split: str
    lost: Count
    gained: Count
    samples: list[Sample]


class Details(_Part):
    """Everything in `details.json`; `layers` has a list for every row."""

    format: Literal[1] = FORMAT
    curves: list[Curve] = []
    layers: list[list[Layer]] = []
    lost: Lost | None = None
