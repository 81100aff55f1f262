"""The manual, docs/: its code runs, its commands exist, its recipes are valid, and it can be built."""

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import click
import pytest
from examples import Block, blocks_of, follow, inside
from manual_tables import filled
from pictures import shortened, with_outputs

import toolkit
from toolkit.cli import main
from toolkit.recipe.read import parse_recipe
from toolkit.sources import resolve

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {str(page.relative_to(DOCS)): page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}
# The guide has tests of its own, and so has what `toolkit new technique` writes; not every machine has a GPU.
FOLLOWED = [page for page in PAGES if page.startswith("howto/") and not re.search("gpu|technique", page)]
QUICK = ["--set", "measure.budget=0.1"]
# Several exports, evaluations on all of MNIST, and runs to compare.
SLOW = (
    "howto/channels.md",
    "howto/export.md",
    "howto/integers.md",
    "howto/evaluating.md",
    "howto/comparing.md",
    "howto/python.md",
)
MINIMAL = """
[model]
source = "toolkit.testing:toy_mlp"
training = {}
[data]
source = "toolkit.testing:toy_data"
[[stages]]
technique = "pruning"
"""
FIRST_LINE = re.compile(r"^\[+(\w+)\]+$", flags=re.MULTILINE)


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in FOLLOWED]
)
def test_a_how_to_page_works_as_it_stands(page, tmp_path):
    (tmp_path / "recipe.toml").write_text(MINIMAL)  # for a page that shows no recipe
    done = list(follow(PAGES[page], tmp_path, QUICK))
    assert any(output for _, output in done) or "toolkit.run(" in PAGES[page]


def commands():
    for page, text in PAGES.items():
        for block in blocks_of(text):
            if block.language == "sh":
                for line in block.text.replace("\\\n", " ").splitlines():
                    words = shlex.split(line, comments=True)
                    if words[0] == "toolkit":
                        yield pytest.param(words[1:], id=f"{page}: {line}")


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_exists_with_its_options(words):
    command: click.Command = main
    context = click.Context(main, info_name="toolkit")
    while isinstance(command, click.Group) and words:
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    command.make_context("shown", list(words), parent=context)


def parts_of_recipes():
    for page, text in PAGES.items():
        blocks = blocks_of(text)
        for number, block in enumerate(blocks):
            if block.language == "toml" and page.startswith("howto/"):
                yield pytest.param(blocks[: number + 1], blocks, id=f"{page} {number}")


@pytest.mark.parametrize(("shown", "blocks"), list(parts_of_recipes()))
def test_every_recipe_and_every_part_of_one_is_valid(shown: list[Block], blocks: list[Block], tmp_path):
    for block in blocks:
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
    (tmp_path / "photos" / "leaf").mkdir(parents=True)
    part = shown[-1].text
    tables = set(FIRST_LINE.findall(part))
    # What a part does not say is said by a recipe that works; what it says takes the place of that.
    kept = [table for table in re.split(r"\n(?=\[)", MINIMAL) if not tables & set(FIRST_LINE.findall(table))]
    with inside(tmp_path):
        assert parse_recipe(part + "\n" + "\n".join(kept), "part.toml", tmp_path).stages


@pytest.mark.slow  # a dozen commands, and four trainings
def test_the_tutorial_works_as_it_stands_on_fewer_pictures(tmp_path, capsys):
    page = PAGES["tutorial.md"].replace("range(300)", "range(40)")
    quick = [
        *QUICK,
        *(f"--set=stages.{number}.finetune.epochs=1" for number in (1, 2)),
        "--set=model.training.epochs=2",
    ]
    done = list(follow(page, tmp_path, quick))
    outputs = [(printed, block.text) for (_, printed), (block, _) in pairwise(done) if block.language == "text"]
    assert len(outputs) == 4  # check, run, diff and pack
    for printed, shown in outputs:
        assert without_numbers(first_line(printed)) == without_numbers(first_line(shown))
        assert stages(shortened(printed)) == stages(shown)
    assert re.search(r"^tensor\(\[\d\]\)$", capsys.readouterr().out, flags=re.MULTILINE)
    with inside(tmp_path):
        Net = resolve("nets.py:Net", "model")
        small, packed = (toolkit.load(path, [Net]) for path in ("runs/shapes", "runs/shapes/model.packed"))
    assert small(toolkit.testing.toy_data().example(1).inputs.new_zeros(1, 3, 32, 32)).shape == (1, 3)
    assert type(packed) is type(small)


def first_line(text: str) -> str:
    return text.strip("\n").splitlines()[0]


def without_numbers(line: str) -> str:
    return re.sub(r"[\d.]+", "", " ".join(line.split()))


def stages(table: str) -> list[str]:
    """The number and the name of each row of a run's table."""
    return re.findall(r"^ +(\d+  \w+)", table, flags=re.MULTILINE)


def test_the_pictures_that_the_tutorial_shows_are_there():
    names = re.findall(r"\]\((pictures/.*?)\)", PAGES["tutorial.md"])
    assert len(names) >= 4
    for name in names:
        picture = (DOCS / name).read_text()
        assert picture.startswith("<svg")
        assert "var(--" not in re.sub(r"<style>.*?</style>", "", picture) or "--ink:" in picture
        assert len(picture) < 40_000


@pytest.mark.parametrize("page", PAGES)
def test_links_work_outside_sphinx(page):
    for link in re.findall(r"\]\((?!https?:)([^)]*)\)", PAGES[page]):
        assert (DOCS / page).parent.joinpath(link.partition("#")[0]).is_file(), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("reference/")])
def test_a_page_that_is_generated_says_so_only_in_its_file(page):
    assert "\n> This file is a source of the manual" in PAGES[page]
    assert "This file is" not in filled(PAGES[page])


def test_outputs_are_put_below_their_commands():
    page = "```sh\na\n```\n\n```text\nold\n```\n\n```python\nb\n```\n\n```text\nkept\n```\n"
    assert with_outputs(page, ["new\n", "", "", ""]) == page.replace("old", "new")
    assert shortened("table\n\nverdict\n\n2 pruning: pruning.layers\n\nlong\n") == "table\n\nverdict\n…"
    assert shortened("moved\n\nOther numbers without an interval\n\nlong\n") == "moved\n…"
    assert shortened("one line\n") == "one line"


@pytest.mark.slow
def test_it_can_be_built_without_a_warning(tmp_path):
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason="the manual is built where the extra docs is installed")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        assert (tmp_path / page).with_suffix(".html").is_file()
    recipes = (tmp_path / "reference" / "recipe.html").read_text()
    assert "generated:" not in recipes
    assert "schedule" in recipes
