"""A JSON Schema of recipes: editors use it to complete keys, show descriptions and underline mistakes.

It has what the tables and each plugin's `Params` declare: keys, types, ranges, choices. What only a validator or the
order of the stages shows (a missing file, a stage that cannot be trained) is left to `toolkit check`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from toolkit.hooks.doctor import Diagnosis, diagnose
from toolkit.hooks.loading import Installed, Role
from toolkit.hooks.source import first_paragraph
from toolkit.params import Params
from toolkit.recipe.tables import RecipeTable

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILE = "recipe.schema.json"  # beside the shipped recipes
# The tables that name a plugin: of which kind, and under which key.
NAMING: dict[str, tuple[Role, str]] = {
    "StageTable": ("technique", "technique"),
    "TechniqueTable": ("technique", "technique"),
    "PluginTable": ("observer", "name"),
    "ExportTable": ("runtime", "runtime"),
}


class _Lenient(GenerateJsonSchema):
    """Allows any value for a field whose type JSON cannot express."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  # as pydantic declares it

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:  # noqa: ARG002  # pydantic's
        """Allow anything instead of raising an error."""
        return {}


def recipe_schema(plugins: Iterable[Installed] | None = None) -> dict[str, Any]:
    """Return the schema of recipes that name these plugins, by default all that are installed.

    A plugin that cannot be imported is offered by name, as the kind of plugin that its source says it is, and its
    `params` may hold anything.
    """
    diagnoses = [*diagnose(plugins)]
    classes = dict.fromkeys(used.params_class for found in diagnoses for used in found.usable.values())
    tables, schema = models_json_schema(
        [(RecipeTable, "validation"), *((params, "validation") for params in classes)], schema_generator=_Lenient
    )
    definitions: dict[str, Any] = schema["$defs"]
    for table, (role, key) in NAMING.items():
        params = {params: tables[params, "validation"] for params in classes}
        _add_choices(definitions[table], role, key, diagnoses, params)
    recipe = definitions.pop(tables[RecipeTable, "validation"]["$ref"].rpartition("/")[2])
    recipe["required"].remove("name")  # by default that of the file
    whole = {**_for_toml(recipe), "title": "A recipe of torch-optimization-toolkit", "$defs": _for_toml(definitions)}
    return {"$schema": DIALECT, **whole}


def _add_choices(
    table: dict[str, Any],
    role: Role,
    key: str,
    diagnoses: Iterable[Diagnosis],
    params: dict[type[Params], Any],
) -> None:
    """Restrict a table's `key` to the plugins of one kind, and its `params` to what the plugin of that name takes."""
    choices, conditions = [], []
    for found in diagnoses:
        if found.problem and role in found.roles:
            choices.append({"const": found.name, "description": found.problem})
        elif role in found.usable:
            used = found.usable[role]
            choices.append({"const": found.name, "description": first_paragraph(used.module.__doc__)})
            named = {"properties": {key: {"const": found.name}}, "required": [key]}
            conditions.append({"if": named, "then": {"properties": {"params": params[used.params_class]}}})
    # An empty list of choices would be a schema that nothing satisfies.
    table["properties"][key].update({"oneOf": choices} if choices else {})
    table["properties"]["params"]["type"] = "object"
    table["allOf"] = conditions


def _for_toml(schema: Any) -> Any:
    """Return a schema without null, which TOML lacks, and without the titles that pydantic derives from names."""
    if isinstance(schema, list):
        return [_for_toml(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: _for_toml(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
    if isinstance(kept.get("anyOf"), list):
        kept["anyOf"] = [choice for choice in kept["anyOf"] if choice != {"type": "null"}]
        if len(kept["anyOf"]) == 1:
            kept = {**kept.pop("anyOf")[0], **kept}
    if kept.get("allOf") == []:
        del kept["allOf"]
    return kept
