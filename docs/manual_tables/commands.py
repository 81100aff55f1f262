"""The commands, as click knows them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from manual_tables import markdown
from toolkit.cli import main


def commands() -> str:
    """A section for each command, and for each command of a group."""
    return "\n\n".join(_sections(click.Context(main, info_name="toolkit")))


def _sections(context: click.Context) -> Iterator[str]:
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.commands[name]
        inner = click.Context(command, info_name=name, parent=context)
        yield _section(command, inner)
        if isinstance(command, click.Group):
            yield from _sections(inner)


def _section(command: click.Command, context: click.Context) -> str:
    usage = context.get_usage().removeprefix("Usage: ")
    about = markdown.paragraphs(re.sub(r"(?<!`)(--[a-z-]+)", r"`\1`", command.help or ""))
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    rows = [_row(option) for option in options if "--help" not in option.opts]
    table = [markdown.table(["option", "what it does"], rows)] if rows else []
    return "\n\n".join([f"## {context.command_path}", f"```text\n{usage}\n```", about, *table])


def _row(option: click.Option) -> list[str]:
    # Click's own line of the help: the option with its metavar, and the text with default and range.
    record = option.get_help_record(click.Context(main))
    assert record is not None
    names, about = record
    return [markdown.code(names), markdown.text(re.sub(r"'([^']*)'", r"`\1`", about))]
