"""The command `toolkit`. Heavy packages are imported inside the commands, so `--help` and completion stay fast."""

from __future__ import annotations

import io
import sys
from typing import Any

import click

from toolkit.cli import bench, cache, completion, export, new, pack, report, run
from toolkit.cli import list as listing
from toolkit.errors import HINT, ToolkitError


class Commands(click.Group):
    """A group whose commands end with one sentence and an exit code instead of a traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run as a program; a terminal or a file whose encoding lacks a character, as on Windows, gets `?` for it."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command: exit code 2 for bad input, 1 for a failure, 130 or 143 for an interruption."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            click.echo("\ninterrupted", err=True)
            ctx.exit(getattr(interruption, "exit_code", 130))
        except ToolkitError as error:
            for line in str(error).splitlines():
                click.echo(line if line.startswith(HINT) else f"error: {line}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="torch-optimization-toolkit")
def main() -> None:
    """Make PyTorch models smaller and faster.

    A recipe (a TOML file) chains techniques such as distillation, pruning and quantization. Every stage is checked and
    measured.

    \b
    To complete words in bash (zsh and fish: zsh_source, fish_source):
      eval "$(_TOOLKIT_COMPLETE=bash_source toolkit)"
    """


for _command in (
    *(run.run, run.check),
    *(listing.techniques, listing.recipes, listing.sources),
    *(report.report, report.diff, report.evaluate),
    *(new.new, new.schema, new.doctor),
    *(pack.pack, export.export, bench.bench, cache.cache),
):
    main.add_command(_command)
completion.complete_arguments(main.commands)
