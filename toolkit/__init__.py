"""Make PyTorch models smaller and faster: recipes chain techniques, every row of the report is measured.

Names are imported when they are used, so that `import toolkit` costs neither torch nor pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit import (
        attention,
        criteria,
        cutting,
        masks,
        operators,
        patterns,
        rounding,
        scoring,
        structure,
        testing,
        timing,
        tracing,
        training,
    )
    from toolkit.batch_norms import reestimate
    from toolkit.data.splits import Data
    from toolkit.errors import RecipeError, TechniqueError, ToolkitError
    from toolkit.hooks.specs import hookimpl
    from toolkit.layer_selection import layers
    from toolkit.model_files import load
    from toolkit.params import Params
    from toolkit.recipe.read import Recipe, Stage
    from toolkit.replacements import replace_layers
    from toolkit.report import Report
    from toolkit.rows import Note, Number, Plot, Row
    from toolkit.runner import run
    from toolkit.sources import Source
    from toolkit.stored_names import stored_as
    from toolkit.tasks import Batch, Classification, MultiLabel, Pooled, Regression, Task, TokenClassification
    from toolkit.training import TrainedAlong, Training

_HOME = {
    "Batch": "tasks",
    "Classification": "tasks",
    "Data": "data.splits",
    "MultiLabel": "tasks",
    "Note": "rows",
    "Number": "rows",
    "Params": "params",
    "Plot": "rows",
    "Pooled": "tasks",
    "Recipe": "recipe.read",
    "RecipeError": "errors",
    "Regression": "tasks",
    "Report": "report",
    "Row": "rows",
    "Source": "sources",
    "Stage": "recipe.read",
    "Task": "tasks",
    "TechniqueError": "errors",
    "TokenClassification": "tasks",
    "ToolkitError": "errors",
    "TrainedAlong": "training",
    "Training": "training",
    "hookimpl": "hooks.specs",
    "layers": "layer_selection",
    "load": "model_files",
    "reestimate": "batch_norms",
    "replace_layers": "replacements",
    "run": "runner",
    "stored_as": "stored_names",
}

_MODULES = (
    *(
        "attention",
        "criteria",
        "cutting",
        "masks",
        "operators",
        "patterns",
        "rounding",
        "scoring",
        "structure",
        "testing",
        "timing",
        "tracing",
        "training",
    ),
)

__all__ = [
    "Batch",
    "Classification",
    "Data",
    "MultiLabel",
    "Note",
    "Number",
    "Params",
    "Plot",
    "Pooled",
    "Recipe",
    "RecipeError",
    "Regression",
    "Report",
    "Row",
    "Source",
    "Stage",
    "Task",
    "TechniqueError",
    "TokenClassification",
    "ToolkitError",
    "TrainedAlong",
    "Training",
    "attention",
    "criteria",
    "cutting",
    "hookimpl",
    "layers",
    "load",
    "masks",
    "operators",
    "patterns",
    "reestimate",
    "replace_layers",
    "rounding",
    "run",
    "scoring",
    "stored_as",
    "structure",
    "testing",
    "timing",
    "tracing",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"toolkit.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'toolkit' has no attribute '{name}'")
    return getattr(import_module(f"toolkit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
