"""The models, data sources, augmentations and tasks that recipes can name without a module."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from manual_tables import markdown
from manual_tables.fields import heading
from toolkit.data.augmentation import AUGMENTATIONS
from toolkit.data.built_in import DATASETS
from toolkit.models import MODELS
from toolkit.tasks import TASKS


def models() -> str:
    """Networks for `[model] source`."""
    return _sections(MODELS)


def data_sources() -> str:
    """For `[data] source`."""
    return _sections(DATASETS)


def augmentations() -> str:
    """For `[data] augment`; the first argument is what they change."""
    return _sections(AUGMENTATIONS, skipped=1)


def tasks() -> str:
    """For `[data] task`."""
    rows = ([markdown.code(name), markdown.text(inspect.getdoc(task) or "")] for name, task in TASKS.items())
    return markdown.table(["task", "what it is"], rows)


def _sections(named: Mapping[str, Callable[..., Any]], skipped: int = 0) -> str:
    return "\n\n".join(_section(name, function, skipped) for name, function in named.items())


def _section(name: str, function: Callable[..., Any], skipped: int) -> str:
    about, arguments = parts_of(inspect.getdoc(function) or "")
    parameters = list(inspect.signature(function).parameters.values())[skipped:]
    rows = [
        [
            markdown.code(each.name),
            markdown.code(_type(each)),
            _default(each),
            markdown.text(arguments.get(each.name, "")),
        ]
        for each in parameters
    ]
    headers = ["argument", "type", "default", "description"]
    if not arguments:  # what there is to say about them is in the text
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    table = [markdown.table(headers, rows)] if rows else []
    return "\n\n".join([heading(3, name), markdown.paragraphs(about), *table])


def parts_of(docstring: str) -> tuple[str, dict[str, str]]:
    """The text of a docstring, and the description of each argument in its `Args:`."""
    about, _, rest = docstring.partition("\nArgs:\n")
    listed = rest.partition("\n\n")[0]
    about = re.sub(r"\n(Raises|Returns):\n.*", "", about, flags=re.DOTALL)
    arguments = {}
    for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8,}.*)*)", listed, flags=re.MULTILINE):
        arguments.update(dict.fromkeys(re.split(r",\s*", names), text))
    return about, arguments


def _type(parameter: inspect.Parameter) -> str:
    return str(parameter.annotation).replace(" | None", "")


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return "required"
    return "" if parameter.default is None else markdown.code(str(parameter.default))
