"""The tables of real networks: computed from results, and what the pages show."""

from __future__ import annotations

from typing import Any

import pytest
from network_tables import among_published, networks_table
from networks import NETWORKS, PUBLISHED, RESULTS
from reproduce import HELD_OUT_PHOTOS, Job, jobs_of
from results import Result, read
from show import NETWORKS_BEGIN, PUBLISHED_BEGIN, write_networks

from toolkit.recipe.shipped import shipped

KEPT = read(RESULTS)


def result(seed: int = 0, errors: int = 700, **changed: Any) -> Result:
    rows: dict[str, dict[str, float]] = {
        "baseline": {"errors": 600, "samples": 10_000, "size_bytes": 3_500_000},
        "channels": {"errors": 650, "samples": 10_000, "size_bytes": 1_000_000},
        "float file": {"errors": 600, "samples": 10_000, "size_bytes": 3_400_000},
        "int8 file": {"errors": errors, "samples": 10_000, "size_bytes": 500_000},
    }
    timed: dict[str, Any] = {"macs": None, "runtime": "onnxruntime"}
    speeds: dict[str, dict[str, Any]] = {
        "baseline": {"macs": 126e6, "runtime": None, "latency_ratio": {"1": [1.0, 1.0, 1.0]}},
        "channels": {"macs": 60e6, "runtime": None, "latency_ratio": {}},
        "float file": {**timed, "latency_ratio": {"1": [0.4, 0.36, 0.44]}},
        "int8 file": {**timed, "latency_ratio": {"1": [0.1, 0.09, 0.11], "128": [0.2, 0.1, 0.3]}},
    }
    return Result("cifar/resnet56", "", seed, "abc", rows, 9.0, "2026-01-01", "a processor", {}, speeds)


def test_a_line_says_smaller_faster_and_lost() -> None:
    line = networks_table([result(0, 700), result(1, 800)]).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "ResNet-56",
        "channels, int8",
        "`cifar/resnet56` (2 seeds)",
        "2.10× fewer",
        "6.8× (500 kB)",
        "4.0× (3.3 to 4.9) at batch 1 in ONNX Runtime on a processor",
        "94.00 %",
        "92.50 %",
        "+1.50 points",
    ]


def test_ours_stands_where_its_change_puts_it() -> None:
    lines = among_published([result()]).splitlines()[2:]
    assert len(lines) == len(PUBLISHED) + 1
    (ours,) = [place for place, line in enumerate(lines) if "cifar/resnet56" in line]
    assert "-0.50" in lines[ours]
    assert ours == sum(each.after - each.before > -0.5 for each in PUBLISHED)


def test_where_things_are_is_neither_kept_nor_a_difference() -> None:
    here = {"data.args.root": "/elsewhere"}
    job, other = (Job("cifar/resnet56", "", {}, 0, places) for places in ({}, here))
    assert job.text_sha256 == other.text_sha256
    assert other.settings == {**here, "seed": 0}


def test_every_variation_is_a_recipe_and_holds_photos_out() -> None:
    jobs = list(jobs_of(NETWORKS, [0], {"data.source": HELD_OUT_PHOTOS}))
    assert len(jobs) == sum(len(experiment.variations) for experiment in NETWORKS)
    assert {job.recipe for job in jobs} == {name for name in shipped() if name.startswith("cifar/")}


def test_results_are_of_the_recipes_as_they_are_and_the_page_shows_them() -> None:
    jobs = list(jobs_of(NETWORKS, range(10), {}))
    for kept in KEPT:
        assert any(kept.is_of(job.recipe, job.variation, job.seed, job.text_sha256) for job in jobs), kept.recipe
    page = RESULTS.with_name("README.md").read_text(encoding="utf-8")
    assert networks_table(KEPT) in page
    assert among_published(KEPT) in page


@pytest.mark.parametrize("begin", [NETWORKS_BEGIN, PUBLISHED_BEGIN])
def test_a_page_with_marks_is_written_and_another_is_left_alone(begin: str, tmp_path: Any) -> None:
    marked, other = tmp_path / "marked.md", tmp_path / "other.md"
    marked.write_text(f"before\n{begin}old\n<!-- end -->\nafter\n")
    other.write_text("nothing\n")
    write_networks([result()], [marked, other])
    text = marked.read_text()
    assert "old" not in text
    assert "cifar/resnet56" in text
    assert text.startswith("before\n")
    assert other.read_text() == "nothing\n"
