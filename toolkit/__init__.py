"""Make PyTorch models smaller and faster: recipes chain techniques, every row of the report is measured.

Names are imported when they are used, so that `import toolkit` costs neither torch nor pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit import masks, patterns, testing, training
    from toolkit.artifact import load
    from toolkit.errors import RecipeError, TechniqueError, ToolkitError
    from toolkit.hookspecs import hookimpl
    from toolkit.params import Params
    from toolkit.recipe import Recipe, Stage
    from toolkit.report import Note, Plot, Report, Row
    from toolkit.runner import run
    from toolkit.sources import Source
    from toolkit.tasks import Batch, Classification, Data, MultiLabel, Pooled, Regression, Task, TokenClassification
    from toolkit.training import Training

_HOME = {
    "Batch": "tasks",
    "Classification": "tasks",
    "Data": "tasks",
    "MultiLabel": "tasks",
    "Note": "report",
    "Params": "params",
    "Plot": "report",
    "Pooled": "tasks",
    "Recipe": "recipe",
    "RecipeError": "errors",
    "Regression": "tasks",
    "Report": "report",
    "Row": "report",
    "Source": "sources",
    "Stage": "recipe",
    "Task": "tasks",
    "TechniqueError": "errors",
    "TokenClassification": "tasks",
    "ToolkitError": "errors",
    "Training": "training",
    "hookimpl": "hookspecs",
    "load": "artifact",
    "run": "runner",
}

_MODULES = ("masks", "patterns", "testing", "training")

__all__ = [
    "Batch",
    "Classification",
    "Data",
    "MultiLabel",
    "Note",
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
    "Training",
    "hookimpl",
    "load",
    "masks",
    "patterns",
    "run",
    "testing",
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
