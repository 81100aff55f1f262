"""The settings of quantization."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

import toolkit
from toolkit_quantization.codecs import Dtype
from toolkit_quantization.layers import Arithmetic

EngineName = Literal["toolkit", "torch", "torchao", "auto"]


class Calibration(toolkit.Params):
    """The samples that are looked at, and how the ranges of static activations are found."""

    samples: int = Field(default=512, ge=1, description="samples of the train split, spread over all of it")
    method: Literal["minmax", "percentile", "mse"] = Field(
        default="minmax",
        description="ranges of static activations: the whole range of the values, that of 99.99 % of them, or that "
        "with the smallest squared error",
    )


class Params(toolkit.Params):
    """Which layers to quantize, to which dtype, with whose arithmetic, and how much that may cost."""

    dtype: Dtype = Field(
        default="int8",
        description="dtype of the weights; int4 has a scale per group of inputs, and so has int2, an experiment",
    )
    group: int = Field(
        default=32,
        ge=0,
        multiple_of=4,
        description="inputs that share a scale in int4 and int2; 0 for all inputs of a row",
    )
    overrides: dict[str, Dtype] = Field(
        default={}, description="other dtypes by name pattern; the most specific pattern wins, whatever the order"
    )
    activations: Literal["dynamic", "static"] = Field(
        default="dynamic",
        description="ranges of activations: dynamic, found anew in each row, in linear layers and attention; or "
        "static, calibrated once, so that convolutions and linear layers run in integers in exported files",
    )
    calibration: Calibration = Field(
        default=Calibration(),
        description="samples that static activations, equalize and compensated rounding look at, and how ranges are "
        "found",
    )
    rounding: Literal["nearest", "compensated"] = Field(
        default="nearest",
        description="of weights in integers: to the nearest value; or compensated (GPTQ), layer by layer, so that on "
        "calibration samples the outputs of the layer change little; biases make up for the mean change",
    )
    equalize: bool = Field(
        default=False,
        description="before layers whose inputs are rounded, move scales of channels from layer to layer: between "
        "layers until the ranges of weights are equal (cross-layer equalization), behind norms by the activations on "
        "calibration samples (SmoothQuant). The network computes the same",
    )
    learn_steps: bool = Field(
        default=False,
        description="in the training with rounding, which needs a finetune table, learn the scales (LSQ) instead of "
        "following the ranges of weights and activations",
    )
    freeze_after: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of these training steps after which the ranges of activations, and learned scales, stay",
    )
    overflow_safe: bool = Field(
        default=True,
        description="with static activations, and in recurrent layers with int8 products, round int8 weights so that "
        "sums are exact on x86 without VNNI, too; false rounds them about half as coarsely, for processors with VNNI",
    )
    recurrent: Literal["float", "int8"] = Field(
        default="float",
        description="whether LSTM and GRU layers may have int8 products, where arithmetic chooses them and the bounds "
        "allow it, stacked layer by stacked layer. The samples of a batch then share the scales of activations, so "
        "that an answer depends on its batch mates",
    )
    layers: list[str] = Field(default=["*"], min_length=1, description="name patterns of the layers to quantize")
    exclude: list[str] = Field(default=[], description="name patterns of the layers to leave in float")
    max_drop: float = Field(
        default=0.5,
        ge=0,
        description="largest accepted drop of the primary metric on the validation split (on train if there is none), "
        "in points (hundredths) for a fraction such as accuracy, else in percent. One answer is always accepted, "
        "unless this is 0",
    )
    max_error: float | None = Field(
        default=None,
        gt=0,
        description="largest accepted change of the outputs, relative to their size; by default 0.5, or 0.1 for a task "
        "that has only a loss, where it replaces max_drop",
    )
    samples: int = Field(default=2000, ge=1, description="samples of that split to score on, spread over all of it")
    scan: bool = Field(
        default=False, description="report what each layer costs, even if no layer has to return to float"
    )
    engine: EngineName = Field(
        default="toolkit",
        description="whose int8 arithmetic to use: the toolkit's, PyTorch's quantize_dynamic (CPU), torchao's (an "
        "extra), or auto, the fastest on this machine that keeps within max_drop",
    )
    batch_sizes: list[Annotated[int, Field(ge=1)]] = Field(
        default=[],
        description="batch sizes at which engine = auto and compile = auto are timed (default: 1 and that of the data)",
    )
    arithmetic: Literal["auto", "int8", "float"] | dict[str, Arithmetic] = Field(
        default="auto",
        description="arithmetic of layers stored in int8: int8 products where available, the layer's own in float, or "
        "auto, whichever is faster, measured per layer; or a table by name pattern, with int8 for all other layers",
    )
    compile: bool | Literal["auto"] = Field(
        default=False,
        description="whether the model, here and wherever it is loaded, compiles itself on its first call; auto "
        "compiles if that is faster on this machine, over the batch_sizes",
    )

    @field_validator("engine")
    @classmethod
    def _installed(cls, engine: str) -> str:
        if engine == "torchao" and find_spec("torchao") is None:
            raise ValueError("'torchao' is not installed; run pip install 'torch-optimization-toolkit[torchao]'")
        return engine

    @model_validator(mode="after")
    def _compilable(self) -> Params:
        if self.compile is True and self.engine == "torch":
            raise ValueError("engine 'torch' cannot be compiled; choose another engine, or leave compile out")
        return self

    @model_validator(mode="after")
    def _recurrent(self) -> Params:
        if self.recurrent == "int8" and self.compile:
            raise ValueError("recurrent = 'int8' cannot be compiled; leave compile out")
        if self.recurrent == "int8" and self.engine not in ("toolkit", "auto"):
            raise ValueError(f"with recurrent = 'int8' engine must be 'toolkit' or 'auto', found {self.engine!r}")
        if self.recurrent == "int8" and self.rounding == "compensated":
            raise ValueError("recurrent = 'int8' rounds to the nearest; leave out one of it and rounding")
        return self

    @model_validator(mode="after")
    def _compensated(self) -> Params:
        if self.rounding == "compensated" and self.engine != "toolkit":
            raise ValueError(f"rounding 'compensated' needs engine 'toolkit', found '{self.engine}'")
        return self

    @model_validator(mode="after")
    def _static(self) -> Params:
        if self.activations == "static":
            other = {"engine": "toolkit", "arithmetic": "auto", "compile": False, "recurrent": "float"}
            for name, only in other.items():
                if getattr(self, name) != only:
                    found = getattr(self, name)
                    raise ValueError(f"with static activations {name} must be {only!r}, found {found!r}; leave it out")
            if wide := {self.dtype, *self.overrides.values()} - {"int8", "int4", "int2"}:
                raise ValueError(f"with static activations a dtype must be int8, int4 or int2, found {min(wide)!r}")
        return self

    @model_validator(mode="after")
    def _learning(self) -> Params:
        if self.learn_steps and self.activations != "static":
            raise ValueError(
                f"with learn_steps activations must be 'static', found {self.activations!r}; leave learn_steps out"
            )
        return self

    @property
    def trainable_after(self) -> bool:
        """False, because rounding has no gradient."""
        return False

    @property
    def trainable_in_stage(self) -> bool:
        """Whether the stage can train with the rounding; compensated rounding would change what was trained."""
        return self.activations == "static" and self.rounding != "compensated"

    @property
    def needs_finetune(self) -> bool:
        """Whether steps are to be learned, which only a training does."""
        return self.learn_steps
