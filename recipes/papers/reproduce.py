"""Runs the recipes of papers for several seeds and keeps what each run measured: `python recipes/papers/reproduce.py`.

A run that is in the file of results already is not done again, so that an interrupted reproduction goes on. Runs have
their baselines in common, through the cache.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click
from experiments import EXPERIMENTS, Experiment
from results import FILE, Result, of_report, read, text_of, write

import toolkit
from toolkit.recipe.overrides import parse_settings

HELD_OUT = f"{Path(__file__).parent / 'held_out.py'}:mnist"
QUICKLY = {"measure.budget": 0.5}  # how fast the networks are is not what the papers are about


@dataclass(frozen=True)
class Job:
    """One run: a recipe, the label of a variation, what it and the caller override, and a seed."""

    recipe: str
    variation: str
    overrides: dict[str, Any]
    seed: int

    @property
    def text_sha256(self) -> str:
        """A hash of all that is run, but for the seed."""
        return text_of(self.recipe, self.overrides)

    def is_done(self, results: Sequence[Result]) -> bool:
        """Whether one of the results is this run's."""
        return any(result.is_of(self.recipe, self.variation, self.seed, self.text_sha256) for result in results)


def jobs_of(experiments: Sequence[Experiment], seeds: Sequence[int], overrides: dict[str, Any]) -> Iterator[Job]:
    """Every run; those of different seeds, which have nothing in common, follow each other."""
    for experiment in experiments:
        for (label, changed), seed in product(experiment.variations.items(), seeds):
            yield Job(experiment.recipe, label, {**changed, **overrides}, seed)


def perform(job: Job) -> Result:
    """Run it, in a folder that is dropped."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = toolkit.run(job.recipe, {**QUICKLY, **job.overrides, "seed": job.seed}, output=Path(folder) / "run")
    return of_report(report, job.recipe, job.variation, job.text_sha256, (time.perf_counter() - started) / 60)


def reproduce(jobs: Sequence[Job], file: Path, workers: int) -> list[Result]:
    """Do what is not in the file yet, so many runs at a time, and write each result into it as it comes."""
    missing = [job for job in jobs if not job.is_done(read(file))]
    click.echo(f"{len(jobs) - len(missing)} of {len(jobs)} runs are in {file} already")
    # A process that is started anew computes as one that is run alone does.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(perform, job): job for job in missing}
        for done in as_completed(running):
            job, result = running[done], done.result()
            write([*_current(file, jobs), result], file)  # read again: other reproductions may go on
            errors = ", ".join(f"{stage} {row['errors']:.0f}" for stage, row in result.rows.items())
            click.echo(f"{job.recipe} {job.variation} seed {job.seed}: errors {errors} ({result.minutes:.1f} min)")
    return _current(file, jobs)


def _current(file: Path, jobs: Sequence[Job]) -> list[Result]:
    """What is in the file, without what came of recipes as they were before."""
    wanted = {(job.recipe, job.variation, job.seed): job.text_sha256 for job in jobs}
    found = ((result, (result.recipe, result.variation, result.seed)) for result in read(file))
    return [result for result, run in found if wanted.get(run, result.text_sha256) == result.text_sha256]


@click.command()
@click.argument("names", nargs=-1)
@click.option("--seeds", default="0,1,2", help="Separated by commas.")
@click.option("--jobs", "workers", default=2, help="Runs at a time.")
@click.option("--set", "settings", multiple=True, help="Another value, such as stages.1.finetune.epochs=3.")
@click.option("--held-out", is_flag=True, help="Measure on 5,000 training digits instead of the test split.")
@click.option("--results", "file", type=click.Path(path_type=Path), default=FILE, help="Where results are kept.")
def main(
    names: tuple[str, ...], seeds: str, workers: int, settings: tuple[str, ...], held_out: bool, file: Path
) -> None:
    """Reproduce papers by NAMES of recipes, such as papers/hinton-2015, by default all of them."""
    chosen = [experiment for experiment in EXPERIMENTS if not names or experiment.recipe in names]
    if len(chosen) < len(names):
        known = ", ".join(experiment.recipe for experiment in EXPERIMENTS)
        raise click.UsageError(f"one of {', '.join(names)} is unknown; known: {known}")
    if held_out and file == FILE:
        file = FILE.with_name("held-out.json")
    overrides = {**parse_settings(settings), **({"data.source": HELD_OUT} if held_out else {})}
    reproduce(list(jobs_of(chosen, [int(seed) for seed in seeds.split(",")], overrides)), file, workers)


if __name__ == "__main__":
    main()
