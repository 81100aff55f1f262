"""The code of the manual's pages, followed step by step: files written, commands run, Python executed."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from toolkit.cli import main

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# ([\w/]+\.(?:py|toml))\n")


@dataclass(frozen=True)
class Block:
    """A code block: its language, its text, and the file that it is if its first line names one."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The name in its first line, as `# nets.py`."""
        found = NAMED.match(self.text)
        return found[1] if found else None


def blocks_of(page: str) -> list[Block]:
    """The code blocks of a page."""
    return [Block(language, text) for language, text in BLOCK.findall(page)]


def follow(page: str, folder: Path, options: Sequence[str] = ()) -> Iterator[tuple[Block, str]]:
    """Do what a page says in `folder`, block by block: each block and what its last command printed.

    A block with the name of a file becomes that file. Python without one is executed, each block with the names of
    those before it. Commands are run. Recipes without a name (parts of one) and texts are left alone.

    Args:
        page: its text.
        folder: the working directory meanwhile.
        options: for every `toolkit run`, so that a test takes less time.
    """
    names = {"__name__": "__main__"}
    with inside(folder):
        for block in blocks_of(page):
            yield block, _do(block, options, names)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in `folder`, from which modules can be imported meanwhile."""
    before, modules = Path.cwd(), set(sys.modules)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path.remove(str(folder))
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]


def _do(block: Block, options: Sequence[str], names: dict[str, Any]) -> str:
    if block.file is not None:
        Path(block.file).parent.mkdir(parents=True, exist_ok=True)
        Path(block.file).write_text(block.text, encoding="utf-8")
        return ""
    if block.language == "python":
        exec(compile(block.text, "a page of the manual", "exec"), names)
        return ""
    if block.language != "sh":
        return ""
    commands = block.text.replace("\\\n", " ").splitlines()
    return [_run(shlex.split(command, comments=True), options) for command in commands][-1]


def _run(words: list[str], options: Sequence[str]) -> str:
    match words:
        case ["python", file]:
            runpy.run_path(file, run_name="__main__")
        case ["toolkit", *arguments]:
            return _toolkit([*arguments, *(options if arguments[0] == "run" else ())])
        case _:  # such as pip install: the reader's alone
            pass
    return ""


def _toolkit(arguments: list[str]) -> str:
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    if done.exit_code:
        raise RuntimeError(f"toolkit {shlex.join(arguments)} ended with {done.exit_code}: {done.output}")
    return done.stdout
