"""Tables, figures and the recipes' own comments from the file of results: `python recipes/papers/show.py`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import click
from experiments import EXPERIMENTS, Experiment
from figures import figures
from means import limit_of, mean_of, minutes_a_seed, runs_of
from network_tables import among_published, networks_table
from networks import PAGES
from networks import RESULTS as NETWORK_RESULTS
from results import FILE, Result, read
from tabulate import tabulate

from toolkit.recipe.shipped import locate

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- made by `python recipes/papers/show.py` -->\n", "<!-- end -->"
NETWORKS_BEGIN = "<!-- networks, made by `python recipes/papers/show.py` -->\n"
PUBLISHED_BEGIN = "<!-- published, made by `python recipes/papers/show.py` -->\n"
PROJECT = FOLDER.parents[1] / "README.md"
OURS = "# Ours, "


def lines_of(experiment: Experiment, results: Sequence[Result]) -> Iterator[list[str]]:
    """For every measure of a recipe: what, its mean over the seeds, each seed's, the limit, whether it is reached."""
    for measure in experiment.measures:
        runs = runs_of(results, experiment, measure.variation)
        if not runs:
            continue
        mean = mean_of(runs, measure.value)
        each = ", ".join(_short(measure.value(run.rows)) for run in sorted(runs, key=lambda run: run.seed))
        limit = limit_of(measure)
        reached = "" if not limit else ("yes" if measure.is_reached_by(mean.value) else "no")
        yield [measure.what, _short(mean.value), each, limit, reached]


def table(results: Sequence[Result]) -> str:
    """All recipes with their measures, as Markdown."""
    rows = []
    for experiment in EXPERIMENTS:
        for place, line in enumerate(lines_of(experiment, results)):
            name = f"`{experiment.recipe}`" if place == 0 else ""
            minutes = f"{minutes_a_seed(results, experiment):.0f}{_besides(experiment)}" if place == 0 else ""
            rows.append([name, *line, minutes])
    headers = ["recipe", "measured", "mean", "by seed", "to reach", "reached", "minutes a seed on one core"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def comment(experiment: Experiment, results: Sequence[Result]) -> list[str]:
    """The lines of a recipe's comment that say what came of it here."""
    told = "; ".join(f"{what} {mean}" for what, mean, *_ in lines_of(experiment, results))
    seeds = len({result.seed for result in results if result.recipe == experiment.recipe})
    minutes = f"{minutes_a_seed(results, experiment):.0f} minutes each on one core{_besides(experiment)}"
    text = f"{OURS}mean of {seeds} seeds, {minutes}: {told}."
    return textwrap.wrap(text, 118, subsequent_indent="# ", break_on_hyphens=False)


def _besides(experiment: Experiment) -> str:
    return f" besides what it shares with {experiment.begins_like}" if experiment.begins_like else ""


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _replace_between(text: str, made: str, begin: str = BEGIN) -> str:
    replaced, count = re.subn(
        f"({re.escape(begin)}).*?({END})", lambda match: match[1] + made + match[2], text, flags=re.DOTALL
    )
    if count != 1:
        raise click.ClickException("README.md has lost the marks around what is made")
    return replaced


def write_comments(results: Sequence[Result]) -> None:
    """Say in each recipe what came of it, where there are results."""
    for experiment in EXPERIMENTS:
        if not any(True for _ in lines_of(experiment, results)):
            continue
        path = locate(experiment.recipe)
        content = path.read_text().splitlines()
        end = next(place for place, line in enumerate(content) if not line.startswith("#"))
        kept = list(takewhile(lambda line: not line.startswith(OURS), content[:end]))
        lines = [*kept, *comment(experiment, results), *content[end:]]
        path.write_text("\n".join(lines) + "\n")


def write_networks(results: Sequence[Result], readmes: Sequence[Path]) -> None:
    """Write the tables of networks wherever a page has marks for them."""
    made = {NETWORKS_BEGIN: networks_table(results), PUBLISHED_BEGIN: among_published(results)}
    for readme in readmes:
        for begin, table in made.items():
            if begin in (text := readme.read_text(encoding="utf-8")):
                readme.write_text(_replace_between(text, f"{table}\n", begin), encoding="utf-8")


@click.command()
def main() -> None:
    """Write the figures, the tables of the pages, and a line into each recipe."""
    results = read(FILE)
    shown = []
    for name, title, figure in figures(results):
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
        shown.append(f"![{title}]({name}.svg)\n")
    readme = FOLDER / "README.md"
    readme.write_text(_replace_between(readme.read_text(), f"{table(results)}\n\n{chr(10).join(shown)}"))
    write_comments(results)
    write_networks(read(NETWORK_RESULTS), [*PAGES, PROJECT])


if __name__ == "__main__":
    main()
