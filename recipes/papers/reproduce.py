"""Runs the recipes of papers for several seeds and keeps what each run measured: `python recipes/papers/reproduce.py`.

A run that is in the file of results already is not done again, so that an interrupted reproduction goes on. Runs have
their baselines in common, through the cache. With `--runs` their folders stay, and an interrupted training goes on.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import click
from experiments import EXPERIMENTS, Experiment
from networks import NETWORKS, PHOTOS
from networks import RESULTS as NETWORK_RESULTS
from results import FILE, Result, of_report, read, text_of, write

import toolkit
from toolkit.errors import ToolkitError
from toolkit.recipe.overrides import parse_settings
from toolkit.storage.run_directory import RunDirectory

HELD_OUT = f"{Path(__file__).parent / 'held_out.py'}:mnist"
HELD_OUT_PHOTOS = f"{Path(__file__).parent / 'held_out.py'}:photos"
QUICKLY = {"measure.budget": 0.5}  # how fast the networks are is not what the papers are about


@dataclass(frozen=True)
class Job:
    """One run: a recipe, the label of a variation, what it and the caller override, and a seed.

    `here` overrides what is elsewhere on another machine, such as the folder of the photos. `runs` is the folder in
    which the run's own stays; None for one that is dropped.
    """

    recipe: str
    variation: str
    overrides: dict[str, Any]
    seed: int
    here: dict[str, Any] = field(default_factory=dict)
    runs: Path | None = None

    @property
    def text_sha256(self) -> str:
        """A hash of all that is run, but for the seed."""
        return text_of(self.recipe, self.overrides)

    def is_done(self, results: Sequence[Result]) -> bool:
        """Whether one of the results is this run's."""
        return any(result.is_of(self.recipe, self.variation, self.seed, self.text_sha256) for result in results)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that is overridden."""
        quickly = {} if self.is_timed else QUICKLY
        return {**quickly, **self.overrides, **self.here, "seed": self.seed}

    @property
    def is_timed(self) -> bool:
        """Whether it matters how fast the networks are."""
        return any(self.recipe == experiment.recipe for experiment in NETWORKS)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield the folder of the run."""
        if self.runs is not None:
            yield self.runs / "-".join((self.recipe.replace("/", "-"), str(self.seed), self.text_sha256))
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "run"


def jobs_of(
    experiments: Sequence[Experiment],
    seeds: Sequence[int],
    overrides: dict[str, Any],
    variations: Sequence[str] | None = None,
    here: dict[str, Any] | None = None,
    runs: Path | None = None,
) -> Iterator[Job]:
    """Every run; those of different seeds, which have nothing in common, follow each other."""
    for experiment in experiments:
        for (label, changed), seed in product(experiment.variations.items(), seeds):
            if variations is None or label in variations:
                yield Job(experiment.recipe, label, {**changed, **overrides}, seed, here or {}, runs)


def perform(job: Job) -> Result:
    """Run it, or read the report of a run that is finished."""
    started = time.perf_counter()
    with job.folder() as folder:
        if (folder / "report.json").is_file() and not RunDirectory.is_unfinished(folder):
            report = toolkit.Report.read(folder)
        else:
            report = toolkit.run(job.recipe, job.settings, output=folder)
    minutes = (time.perf_counter() - started) / 60
    if job.runs is not None:  # it may have been interrupted
        minutes = sum(row.values.get("duration_s", 0.0) for row in report.rows) / 60
    return of_report(report, job.recipe, job.variation, job.text_sha256, minutes, with_speeds=job.is_timed)


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
@click.option("--here", multiple=True, help="Where things are on this machine, such as data.args.root=/photos.")
@click.option("--variation", "variations", multiple=True, help="Only this variation; repeatable.")
@click.option("--held-out", is_flag=True, help="Measure on at most 5,000 training samples instead of the test split.")
@click.option("--results", "file", type=click.Path(path_type=Path), help="Where results are kept.")
@click.option("--runs", type=click.Path(path_type=Path), help="Keep the runs here, and go on with interrupted ones.")
def main(
    names: tuple[str, ...],
    seeds: str,
    workers: int,
    settings: tuple[str, ...],
    here: tuple[str, ...],
    variations: tuple[str, ...],
    held_out: bool,
    file: Path | None,
    runs: Path | None,
) -> None:
    """Run the recipes of papers by NAMES, such as papers/hinton-2015, by default all of them; or some of networks."""
    chosen = _chosen(names)
    if held_out and any(experiment in NETWORKS and not experiment.recipe.startswith(PHOTOS) for experiment in chosen):
        raise click.UsageError("only the data of papers and photos can be held out")
    kept, source = (NETWORK_RESULTS, HELD_OUT_PHOTOS) if chosen[0] in NETWORKS else (FILE, HELD_OUT)
    overrides = {**parse_settings(settings), **({"data.source": source} if held_out else {})}
    numbers = [int(seed) for seed in seeds.split(",")]
    jobs = list(jobs_of(chosen, numbers, overrides, variations or None, parse_settings(here), runs))
    try:
        reproduce(jobs, file or (kept.with_name("held-out.json") if held_out else kept), workers)
    except ToolkitError as error:
        raise click.ClickException(str(error)) from error


def _chosen(names: Sequence[str]) -> list[Experiment]:
    """The experiments by these names: all papers if there is none. Papers and networks have different files."""
    if not names:
        return list(EXPERIMENTS)
    known = {experiment.recipe: experiment for experiment in (*EXPERIMENTS, *NETWORKS)}
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"{', '.join(unknown)} is unknown; known: {', '.join(known)}")
    chosen = [known[name] for name in names]
    if len({experiment in NETWORKS for experiment in chosen}) > 1:
        raise click.UsageError("papers and networks are kept in different files; name either of them at a time")
    return chosen


if __name__ == "__main__":
    main()
