"""The settings of quantization."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

import toolkit
from toolkit_quantization.codecs import Dtype
from toolkit_quantization.layers import Arithmetic

EngineName = Literal["toolkit", "torch", "torchao", "auto"]


class Params(toolkit.Params):
    """Which layers are quantized, to what, by whose arithmetic, and how much that may cost."""

    dtype: Dtype = Field(default="int8", description="of the weights; int4 has a scale for each group of them")
    overrides: dict[str, Dtype] = Field(
        default={}, description="other dtypes by name pattern; the pattern with the most letters wins, not the first"
    )
    layers: list[str] = Field(default=["*"], min_length=1, description="name patterns of layers to quantize")
    exclude: list[str] = Field(default=[], description="name patterns of layers to leave in float")
    max_drop: float = Field(
        default=0.5,
        ge=0,
        description="what it may cost on the validation split (train without one): points, hundredths, of the foremost "
        "metric if that is a fraction, as accuracy is, else percent of its value; a single answer is always allowed, "
        "unless this is 0",
    )
    max_error: float | None = Field(
        default=None,
        gt=0,
        description="how far outputs may move, relative to their size; by default 0.5, and 0.1 for a task that has "
        "nothing but a loss, where it takes the place of max_drop",
    )
    samples: int = Field(default=2000, ge=1, description="of that split that are looked at, spread over all of it")
    scan: bool = Field(default=False, description="report what each layer costs also where nothing has to be repaired")
    engine: EngineName = Field(
        default="toolkit",
        description="whose int8 arithmetic: our own, PyTorch's quantize_dynamic (CPU), torchao's (an extra), or auto: "
        "the fastest here of those that keep within max_drop",
    )
    batch_sizes: list[Annotated[int, Field(ge=1)]] = Field(
        default=[],
        description="that engine = auto and compile are timed with; by default 1 and the data's, as in the report",
    )
    arithmetic: Literal["auto", "int8", "float"] | dict[str, Arithmetic] = Field(
        default="auto",
        description="of layers kept in int8: int8 products where there are any, the layer's own in float, or auto, the "
        "faster of both, measured for each layer; or by name pattern, int8 for all others",
    )
    compile: bool | Literal["auto"] = Field(
        default=False,
        description="whether the result, and what is loaded of it, compiles itself when first called; or auto: "
        "if that is faster here, over the batch_sizes",
    )

    @field_validator("engine")
    @classmethod
    def _installed(cls, engine: str) -> str:
        if engine == "torchao" and find_spec("torchao") is None:
            raise ValueError("'torchao' is not installed: pip install 'torch-optimization-toolkit[torchao]'")
        return engine

    @model_validator(mode="after")
    def _compilable(self) -> Params:
        if self.compile is True and self.engine == "torch":
            raise ValueError("engine 'torch' cannot be compiled: take another engine, or leave compile out")
        return self

    @property
    def trainable_after(self) -> bool:
        """No: rounding has no gradient."""
        return False
