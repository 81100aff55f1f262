"""The reference: everything that a recipe or a command line may say is in it, with what it takes."""

from dataclasses import replace
from typing import Literal

import click
import pytest
from manual_tables import GENERATED, filled, markdown
from manual_tables.built_in import parts_of
from manual_tables.fields import field_table, models_in
from manual_tables.plugins import _shipped
from pydantic import BaseModel, Field

from toolkit import Params, Source
from toolkit.cli import main
from toolkit.hooks.loading import installed
from toolkit.recipe.tables import RecipeTable


def tables(model):
    yield model
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            yield from tables(inner)


def test_every_key_of_every_table_of_a_recipe_is_there():
    page = GENERATED["recipe"]()
    found = list(tables(RecipeTable))
    assert len(found) > 8
    for table in found:
        assert field_keys(table) <= set(lines_of(page))


def test_the_name_of_a_recipe_is_not_required():
    [line] = [line for line in GENERATED["recipe"]().splitlines() if "| name of the run (" in line]
    assert "required" not in line


def field_keys(table):
    return {f"`{field.alias or name}`" for name, field in table.model_fields.items()}


def lines_of(page):
    return [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")]


def test_every_plugin_is_there_with_every_param_or_with_what_it_lacks():
    shown = {name: GENERATED[name]() for name in ("techniques", "observers", "runtimes", "unusable")}
    plugins = [plugin for plugin in installed() if plugin.distribution.startswith("torch-optimization-toolkit")]
    assert len(plugins) >= 9
    for found in _shipped():
        page = shown["unusable"] if found.problem else shown["techniques"] + shown["observers"] + shown["runtimes"]
        assert found.name in page
        for used in found.usable.values():
            for table in set(tables(used.params_class)) - {Source}:  # which is the table [model] of a recipe
                assert field_keys(table) <= set(lines_of(page))


def test_a_plugin_that_cannot_be_imported_says_what_to_install(monkeypatch):
    problem = "'mlflow' cannot be imported; install what it needs with pip install 'torch-optimization-toolkit[mlflow]'"
    broken = replace(_shipped()[0], name="mlflow", usable={}, problem=problem)
    monkeypatch.setattr("manual_tables.plugins._shipped", lambda: (broken,))
    page = GENERATED["unusable"]()
    assert "`mlflow`" in page
    assert r"pip install 'torch-optimization-toolkit\[mlflow\]'" in page
    assert GENERATED["techniques"]() == ""


def every_command(group, path):
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from every_command(command, f"{path} {name}")


COMMANDS = list(every_command(main, "toolkit"))


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_command_is_there_with_every_option(path, command):
    section = GENERATED["commands"]().partition(f"## {path}\n")[2].partition("\n## ")[0]
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.opts[0] in section
    assert markdown.text((command.help or "").partition("\n")[0])[:30] in section


def test_a_field_is_shown_with_its_type_range_and_default():
    class Inner(Params):
        """A table in a table."""

    class Shown(Params):
        share: float = Field(default=0.5, ge=0, lt=1, description="of a | b")
        kind: Literal["x", "y"] = Field(default="x", description="one of `two`")
        inner: list[Inner] = Field(default=[], description="tables")
        needed: int = Field(description="no *default*")

    assert field_table(Shown, {Inner: "Shown inner"}).splitlines()[2:] == [
        r"| `share` | float ≥ 0 < 1 | `0.5` | of a \| b |",
        '| `kind` | "x", "y" | `"x"` | one of `two` |',
        "| `inner` | list of [Shown inner](#table-Shown-inner) | `[]` | tables |",
        r"| `needed` | int | required | no \*default\* |",
    ]


def test_what_a_table_lacks_a_page_cannot_ask_for():
    with pytest.raises(KeyError):
        filled("<!-- generated: nothing -->\n")
    assert "lenet5" in filled("# Title\n\n<!-- generated: models -->\n")


def test_arguments_are_read_from_a_docstring():
    about, arguments = parts_of(
        "Does.\n\nMore.\n\nArgs:\n    a: first,\n        and on.\n    b, c: both.\n\nRaises:\n    E: no."
    )
    assert about.strip() == "Does.\n\nMore."
    assert {name: " ".join(text.split()) for name, text in arguments.items()} == {
        "a": "first, and on.",
        "b": "both.",
        "c": "both.",
    }


def test_models_in_a_type_are_found():
    class One(BaseModel):
        pass

    assert list(models_in(dict[str, list[One] | None])) == [One]
