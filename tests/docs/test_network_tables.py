"""The tables of real networks: computed from results, and what the pages show."""

from __future__ import annotations

from typing import Any

import pytest
from network_tables import among_published, networks_table
from networks import NETWORKS, PAGES, PHOTOS, PUBLISHED, RESULTS
from reproduce import HELD_OUT_PHOTOS, Job, jobs_of
from results import Result, read
from show import NETWORKS_BEGIN, PUBLISHED_BEGIN, write_networks

from toolkit.recipe.shipped import shipped

KEPT = read(RESULTS)


def result(seed: int = 0, errors: int = 700, **changed: Any) -> Result:
    kept = {"errors": errors, "samples": 10_000, "size_bytes": 500_000, "change_low": -0.012, "change_high": -0.008}
    rows: dict[str, dict[str, float]] = {
        "baseline": {"errors": 600, "samples": 10_000, "size_bytes": 3_500_000},
        "channels": {"errors": 650, "samples": 10_000, "size_bytes": 1_000_000},
        "int8 file": kept,
    }
    ratios = {"1": [0.25, 0.2, 0.4], "128": [0.5, 0.4, 0.8]}
    speeds: dict[str, dict[str, Any]] = {
        "baseline": {"macs": 126e6, "runtime": None, "latency_ratio": {"1": [1.0, 1.0, 1.0]}, "runtime_ratio": {}},
        "channels": {"macs": 60e6, "runtime": None, "latency_ratio": {}, "runtime_ratio": {}},
        "int8 file": {"macs": None, "runtime": "onnxruntime", "latency_ratio": {}, "runtime_ratio": ratios},
    }
    told: dict[str, Any] = {"rows": rows, "speeds": speeds, **changed}
    return Result("cifar/resnet56", "", seed, "abc", minutes=9.0, processor="a processor", **told)


def cells_of(*results: Result) -> list[str]:
    return [cell.strip() for cell in networks_table(results).splitlines()[2].strip("|").split("|")]


def test_a_line_says_smaller_faster_and_lost() -> None:
    assert cells_of(result()) == [
        "ResNet-56",
        "photos",
        "`cifar/resnet56`",
        "7.0× (3.5 MB → 500 kB)",
        "4.0× (2.5–5.0) @1, 2.0× (1.2–2.5) @128, ONNX Runtime",
        "1.00 ± 0.20 (94.0 → 93.0 %)",
    ]
    assert networks_table([result()]).endswith("\n\nTimed on a processor, one thread.")


def test_several_seeds_have_the_interval_of_their_mean() -> None:
    cells = cells_of(result(0, 700), result(1, 800))
    assert cells[2] == "`cifar/resnet56` (2 seeds)"
    assert cells[5] == "1.50 ± 6.35 (94.0 → 92.5 %)"  # t(0.975, 1) = 12.706, times 0.7071, over the root of 2


def test_what_was_not_timed_is_said_to_be() -> None:
    speeds = result().speeds | {"int8 file": {"runtime": "onnxruntime", "latency_ratio": {}, "runtime_ratio": {}}}
    assert cells_of(result(speeds=speeds))[4] == "not measured"


def test_no_results_are_no_table() -> None:
    assert networks_table([]) == ""


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
    assert len(jobs) == len(NETWORKS)
    assert {job.recipe for job in jobs} == {name for name in shipped() if name.startswith((PHOTOS, "real/"))}


def test_results_are_of_the_recipes_as_they_are_and_the_page_shows_them() -> None:
    jobs = list(jobs_of(NETWORKS, range(10), {}))
    for kept in KEPT:
        assert any(kept.is_of(job.recipe, job.variation, job.seed, job.text_sha256) for job in jobs), kept.recipe
    results, photos = (page.read_text(encoding="utf-8") for page in PAGES)
    assert networks_table(KEPT) in results
    assert among_published(KEPT) in photos


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
