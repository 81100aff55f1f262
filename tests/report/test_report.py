"""A report in words: verdicts, tables, reading it again, two of them compared; and what a run collects for its page."""

import base64
import dataclasses
import io
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import toolkit
from toolkit import masks
from toolkit.cli import main
from toolkit.errors import InputError
from toolkit.metrics import answers
from toolkit.number_text import bytes_text, count_text, plus_minus, printable, seconds, signed
from toolkit.recipe.differences import settings_of
from toolkit.report import Report, compare_text
from toolkit.report.compare import compare, moved
from toolkit.report.curves import MAX_POINTS, CurveRecorder
from toolkit.report.details import Details
from toolkit.report.layers import BINS, histogram, layers_of
from toolkit.report.reader import read_details, read_report
from toolkit.report.samples import MAX_SAMPLES, lost_samples, picture
from toolkit.report.table import as_markdown, as_text
from toolkit.report.verdicts import speed, stage_verdicts, verdict
from toolkit.rows import Note, Plot, Row
from toolkit.testing import TiedToy, toy_cnn, toy_data, toy_mlp

ENVIRONMENT = {"processor": "a processor", "threads": 1, "device": "cpu", "torch": "2.14"}


def row(stage, *, change=None, reach=0.001, ratio=None, ratio_reach=0.01, **values):
    """A row with an accuracy, a size, and perhaps a change and ratios by batch size with intervals around them."""
    made = {"accuracy": 0.99, "accuracy_interval": [0.988, 0.992], "samples": 10_000, "size_bytes": 1_000_000}
    made |= {"parameters": 250_000, "nonzero": 250_000, "sparsity": 0.0, "macs": 1_000_000}
    if change is not None:
        made |= {"accuracy_change": change, "accuracy_change_interval": [change - reach, change + reach]}
    if ratio is not None:
        made["latency_ms"] = {size: 2.0 * value for size, value in ratio.items()}
        made["latency_ratio"] = ratio
        made["latency_ratio_interval"] = {
            size: [value - ratio_reach, value + ratio_reach] for size, value in ratio.items()
        }
    return Row(stage, made | values)


BASELINE = row(
    "baseline",
    latency_ms={"1": 2.0, "64": 2.0},
    latency_ratio={"1": 1.0, "64": 1.0},
    latency_ratio_interval={"1": [1.0, 1.0], "64": [1.0, 1.0]},
)


def report(*rows, **options):
    return Report(name="toy", seed=0, rows=(BASELINE, *rows), environment=ENVIRONMENT, **options)


class TestExports:
    def test_the_verdict_counts_the_stages_of_the_exported_model(self):
        smaller = row("pruning", size_bytes=500_000)
        file = {"runtime": "onnxruntime", "size_bytes": 250_000}
        said = [verdict(report(smaller, smaller, row("onnx", **file), starts=(0, 0, 1, start))) for start in (2, 1, 0)]
        assert [text.partition(" the model")[0] for text in said] == [
            "After 2 stages and an export to onnxruntime,",
            "After one stage and an export to onnxruntime,",
            "After an export to onnxruntime,",
        ]

    def test_the_table_names_the_runtime_and_compares_with_the_float_file(self):
        numbers = {"runtime_ratio": {"1": 0.5}, "runtime_ratio_interval": {"1": [0.4, 0.6]}}
        exported = report(row("pruning"), row("onnx", runtime="onnxruntime", **numbers), starts=(0, 0, 1))
        lines = as_markdown(exported).splitlines()
        heading, _, *rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
        assert [line[heading.index("runs in")] for line in rows] == ["PyTorch", "PyTorch", "onnxruntime"]
        assert [line[heading.index("of float @1")] for line in rows] == ["", "", "×0.50 [0.40, 0.60]"]

    def test_a_file_timed_elsewhere_is_compared_with_the_baseline_alone(self):
        file = {"runtime": "onnxruntime", "ratio": {"1": 0.25}, "timed_with": "threads 2 instead of 1"}
        exported = report(row("pruning", ratio={"1": 0.5}), row("onnx", **file), starts=(0, 0, 1))
        assert stage_verdicts(exported)[1] == "2 onnx: no significant change"
        assert "4.00× as fast at batch 1" in verdict(exported)
        here = exported.model_copy(update={"rows": (*exported.rows[:2], row("onnx", ratio={"1": 0.25}))})
        assert stage_verdicts(here)[1] == "2 onnx: 2.00× as fast at batch 1"

    def test_a_file_that_is_slower_than_the_file_of_the_baseline_is_said_to_be(self):
        ratios = {"1": 1.75, "2": 1.2, "8": 1.6, "64": 0.5}
        ends = {"1": [1.5, 2.0], "2": [0.9, 1.5], "64": [0.4, 0.6]}  # none for 8
        file = row("onnx", runtime="onnxruntime", runtime_ratio=ratios, runtime_ratio_interval=ends)
        sentence = "On this machine its file is 1.75× slower at batch 1 than the file of the baseline for onnxruntime."
        assert sentence in verdict(report(file))
        faster = row("onnx", runtime="onnxruntime", runtime_ratio={"1": 0.5}, runtime_ratio_interval={"1": [0.4, 0.6]})
        assert "file of the baseline" not in verdict(report(faster))

    def test_a_run_without_exports_has_no_column_for_them(self):
        assert "runs in" not in as_markdown(report(row("pruning")))


class TestNumbers:
    @pytest.mark.parametrize(
        ("size", "text"), [(0, "0 B"), (999, "999 B"), (999.9, "1 kB"), (1_729_189, "1.73 MB"), (3e12, "3 TB")]
    )
    @pytest.mark.smoke
    def test_bytes(self, size, text):
        assert bytes_text(size) == text

    def test_counts_signs_and_durations(self):
        assert count_text(431_080) == "431 k"
        assert [signed(-0.04), signed(0.1), signed(-0.001)] == ["−0.04", "+0.10", "0.00"]
        assert plus_minus(-0.04, [-0.15, 0.06]) == "−0.04 ± 0.11"
        assert [seconds(1.5), seconds(59), seconds(61), seconds(7261)] == ["1.5 s", "59 s", "1 min 01 s", "2 h 01 min"]

    def test_what_no_page_can_hold_is_replaced(self):
        assert printable("a\x00b\ud800c\nd") == "a\ufffdb\ufffdc\nd"


class TestVerdict:
    @pytest.mark.smoke
    def test_two_sentences_say_what_was_gained_and_what_it_cost(self):
        small = row("small", change=-0.0004, ratio={"1": 0.5, "64": 0.25}, size_bytes=100_000, agreement=0.996)
        assert verdict(report(small)) == (
            "After one stage, the model is 10.0× smaller (1 MB → 100 kB), 2.00× as fast at batch 1 and 4.00× as fast "
            "at batch 64. No significant change in accuracy (−0.04 ± 0.10 points on 10,000 samples); "
            "0.40 % of the answers differ from the baseline's."
        )

    @pytest.mark.parametrize(
        ("change", "reach", "sentence"),
        [
            (-0.002, 0.001, "loses 0.20 ± 0.10 points of accuracy against the baseline"),
            (0.002, 0.001, "gains 0.20 ± 0.10 points of accuracy against the baseline"),
            (-0.001, 0.001, "no significant change in accuracy (−0.10 ± 0.10 points)"),
            (-0.02, 0.03, "too few samples for a verdict on accuracy (−2.00 ± 3.00 points)"),
        ],
    )
    def test_accuracy_only_as_far_as_its_interval_goes(self, change, reach, sentence):
        assert stage_verdicts(report(row("a", change=change, reach=reach))) == [f"1 a: {sentence}"]

    def test_without_an_interval_there_is_no_verdict(self):
        bare = row("a", accuracy_change=-0.5, latency_ratio={"1": 0.1, "64": 0.1})
        assert stage_verdicts(report(bare)) == ["1 a: no significant change"]
        assert "as fast" not in verdict(report(bare))

    def test_a_ratio_of_too_few_timings_is_no_verdict_but_said(self):
        few = row("few", ratio={"1": 0.5}, latency_ms={"1": 1.0, "64": 9.0})
        assert verdict(report(few)).endswith(
            "The machine was too busy to time batch 64, or `budget` allows too few timings."
        )
        assert "9 ×?" in as_text(report(few), 200)

    def test_a_ratio_that_a_busy_machine_has_spoilt_is_said_to_be_just_that(self):
        spoilt = row("spoilt", ratio={}, latency_ms={"1": 1.0, "64": 9.0}, latency_rounds={"1": 6, "64": 40})
        assert verdict(report(spoilt)).endswith(" The machine was too busy to time batch 1 and 64.")

    @pytest.mark.parametrize(("ratio", "reach"), [(0.8, 0.25), (1.3, 0.4), (1.01, 0.005), (1.0, 0.01)])
    def test_speed_is_not_said_to_differ_within_its_interval_or_by_next_to_nothing(self, ratio, reach):
        [line] = stage_verdicts(report(row("a", ratio={"1": ratio}, ratio_reach=reach)))
        assert "as fast" not in line

    def test_a_slower_stage_is_said_to_be_slower_without_a_reason_that_nobody_looked_into(self):
        first = row("first", ratio={"1": 0.5, "64": 0.5})
        narrow = row("narrow", ratio={"1": 0.625, "64": 0.25}, size_bytes=270_000)
        [_, line] = stage_verdicts(report(first, narrow))
        assert line.startswith(
            "2 narrow: 3.70× smaller (1 MB → 270 kB), 1.25× slower at batch 1 on this machine and "
            "2.00× as fast at batch 64"
        )

    def test_zeros_that_gain_nothing_are_said_to(self):
        zeros = {"sparsity": 0.9, "nonzero": 25_000}
        [line] = stage_verdicts(report(row("sparse", ratio={"1": 1.0, "64": 1.01}, **zeros)))
        assert line.startswith("1 sparse: 90 % zeros change neither size nor speed: a dense file stores zeros")
        [line] = stage_verdicts(report(row("sparse", ratio={"1": 1.0, "64": 1.0}, ratio_reach=0.2, **zeros)))
        assert "neither" not in line  # the interval is too wide to say that nothing changed
        assert "90 % zeros do not change the size: a dense file stores zeros" in line
        [line] = stage_verdicts(report(row("sparse", ratio={"1": 1.2, "64": 1.0}, **zeros)))
        assert line.startswith("1 sparse: 90 % zeros do not change the size")
        assert "1.20× slower at batch 1 on this machine" in line
        [line] = stage_verdicts(report(row("small", size_bytes=200_000, **zeros)))
        assert "zeros" not in line

    def test_a_stage_is_read_against_the_row_it_started_from(self):
        rows = [row("a", size_bytes=500_000), row("b", size_bytes=250_000)]
        assert "2.00× smaller (500 kB → 250 kB)" in stage_verdicts(report(*rows))[1]
        assert "4.00× smaller (1 MB → 250 kB)" in stage_verdicts(report(*rows, starts=(0, 0, 0)))[1]

    def test_the_errors_of_two_ratios_add_up(self):
        both = report(row("a", ratio={"1": 0.5}, ratio_reach=0.05), row("b", ratio={"1": 0.5}, ratio_reach=0.05))
        alone, joint = speed(both, 0, 1, "1"), speed(both, 1, 2, "1")
        assert joint[0] == pytest.approx(1)
        assert math.log(joint[1][1]) == pytest.approx(math.sqrt(2) * math.log(alone[1][1] / 2), rel=1e-6)

    def test_other_metrics_have_a_direction_and_their_own_unit(self):
        values = {"error": 0.02, "error_change": 0.004, "error_change_interval": [0.003, 0.005]}
        bare = Report(
            name="r",
            seed=0,
            rows=(Row("baseline", {"error": 0.016}), Row("a", values)),
            environment=ENVIRONMENT,
            quality={"error": "lower", "r2": "higher"},
        )
        assert stage_verdicts(bare) == ["1 a: error is 0.004 ± 0.001 worse than the baseline's"]

    def test_a_metric_without_interval_is_told_and_not_judged(self):
        bare = Report(
            name="r",
            seed=0,
            rows=(Row("baseline", {"loss": 0.1}), Row("a", {"loss": 0.2})),
            environment=ENVIRONMENT,
            quality={"loss": "lower"},
        )
        assert verdict(bare).endswith("Loss changed from 0.1 to 0.2 (measured without an interval).")

    def test_a_baseline_alone(self):
        assert verdict(report()) == "Only the baseline was measured."
        assert stage_verdicts(report()) == []


class TestTable:
    def test_it_fits_eighty_columns_with_what_matters(self):
        text = as_text(
            report(
                row("distillation", change=-0.01, ratio={"1": 0.5, "64": 0.5}, agreement=0.9),
                row("quantization", change=-0.01, ratio={"1": 0.5, "64": 0.5}, agreement=0.9),
            )
        )
        table = text.partition("\n\n")[0]
        assert max(map(len, text.splitlines())) <= 80
        assert "99.00 % ±0.20" in table
        for title in ("stage", "accuracy", "size", "smaller", "ms @1", "ms @64"):
            assert title in table.splitlines()[0]
        assert "MACs" not in table
        assert "MACs" in as_text(report(), 200)

    def test_the_least_important_columns_go_first(self):
        full = report(row("a", change=0.0, ratio={"1": 0.5, "64": 0.5}, agreement=0.9))
        titles = [as_text(full, width).splitlines()[0].split() for width in range(40, 160)]
        for fewer, more in pairwise(titles):
            assert set(fewer) <= set(more)

    def test_columns_without_room_are_listed(self):
        full = report(row("a", change=0.0))
        assert as_text(full).split("\n\n")[1] == "3 more columns on a wider terminal: zeros, nonzero, MACs"
        assert any("\n1 more column on a wider terminal: MACs\n" in as_text(full, width) for width in range(80, 120))
        assert "more column" not in as_text(full, 200)
        of_a_run = as_text(report(directory=Path("run")), 60)
        assert "\n3 more columns in report.html: zeros, nonzero, MACs\n" in of_a_run

    @pytest.mark.parametrize("width", [20, 60, 80])
    def test_every_batch_size_that_a_verdict_speaks_of_is_in_a_table(self, width):
        ratios = {str(size): 0.5 for size in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)}
        ones = dict.fromkeys(ratios, 1.0)
        baseline = Row("baseline", {"latency_ms": ones, "latency_ratio": ones, "size_bytes": 1})
        text = as_text(Report(name="r", seed=0, rows=(baseline, row("small", ratio=ratios)), environment={}), width)
        headings = [line.split() for line in text.splitlines() if "ms @" in line and "more" not in line]
        for size in ratios:
            assert [f"@{size}" in words for words in headings].count(True) == 1
        assert all(len(line) <= width for line in text.splitlines()[:15] if width > 60)

    def test_it_begins_with_a_plain_table_and_verdicts_follow(self):
        table, _, rest = as_text(report(row("a", change=-0.01)), 200).partition("\n\n")
        assert len(table.splitlines()) == 4
        assert rest.startswith("After one stage, ")
        assert "\n1 a: loses 1.00 ± 0.10 points" in rest

    def test_whatever_was_not_measured_is_left_out(self):
        bare = Report(name="r", seed=0, rows=(Row("baseline"), Row("a", {"x.note": Note("said")})), environment={})
        text = as_text(bare)
        assert text.splitlines()[0].split() == ["#", "stage", "size", "smaller"]
        assert "1 a: x.note: said" in text
        assert as_markdown(bare).startswith("# r\n")
        assert "Only the baseline" not in text

    def test_metrics_of_ones_own_get_columns(self):
        values = {"rmse": 0.5, "rmse_interval": [0.4, 0.6], "rmse_change": 0.1, "rmse_change_interval": [0.05, 0.15]}
        text = as_text(
            Report(
                name="r",
                seed=0,
                rows=(Row("baseline", values), Row("a", values)),
                environment={},
                quality={"rmse": "lower"},
            )
        )
        assert "0.5 ±0.1" in text
        assert "+0.1 ±0.05" in text

    def test_markdown_has_all_intervals(self):
        text = as_markdown(report(row("a", change=-0.01, ratio={"1": 0.5, "64": 0.5}, ratio_reach=0.004)))
        assert "×0.500 ±0.004" in text
        assert "−1.00 ±0.10" in text


def written(report, directory):
    (directory / "report.json").write_text(json.dumps(report.model_dump(mode="json")))
    (directory / "recipe.toml").write_text('name = "toy"\n[[stages]]\ntechnique = "a"\nparams = { x = 1 }\n')
    return directory


LOST = """{"lost": {"split": "test", "lost": 1, "gained": 0, "samples": [
    {"index": 0, "target": "1", "baseline": "1", "final": "2", "picture": "%s"}]}}"""


class TestReader:
    def test_a_report_comes_back_as_it_was(self, tmp_path):
        whole = report(
            row("a", change=-0.01, ratio={"1": 0.5}, note=Note("text", [{"layer": "x", "n": 1}])), starts=(0, 0)
        )
        again = read_report(written(whole, tmp_path))
        assert again == whole == Report.read(tmp_path)
        assert again.directory == tmp_path
        assert again.details is None
        assert Report.model_validate(json.loads(json.dumps(whole.model_dump(mode="json")))) == whole

    def test_a_plot_comes_back_and_a_note_without_one_is_written_as_ever(self, tmp_path):
        table = [{"layer": "x", "sparsity": 0.5, "drop": 1.5}]
        plots = [Plot("sparsity", "drop", "layer"), Plot("sparsity", "drop"), None]
        notes = {f"note{place}": Note("text", table, plot) for place, plot in enumerate(plots)}
        whole = report(row("a", change=-0.01, **notes), starts=(0, 0))
        assert read_report(written(whole, tmp_path)) == whole
        assert whole.rows[1]["note0"].model_dump(mode="json")["plot"] == {
            "x": "sparsity",
            "y": "drop",
            "series": "layer",
        }
        assert whole.rows[1]["note2"].model_dump(mode="json") == {"text": "text", "table": table}

    def refused(self, directory):
        with pytest.raises(InputError) as caught:
            read_report(directory)
        sentence = str(caught.value)
        assert "\n" not in sentence
        return sentence

    def test_what_is_no_run_is_named(self, tmp_path):
        assert self.refused(tmp_path / "no") == f"run directory {tmp_path / 'no'} does not exist"
        assert self.refused(tmp_path) == f"{tmp_path} is not a run directory: it has no report.json"
        (tmp_path / "file").touch()
        assert self.refused(tmp_path / "file") == f"{tmp_path / 'file'} is a file; name a run directory"

    def test_every_truncation_is_one_sentence(self, tmp_path):
        text = json.dumps(report(row("a", change=-0.01)).model_dump(mode="json"))
        for length in range(0, len(text), 7):
            (tmp_path / "report.json").write_text(text[:length])
            assert "report.json is truncated or not JSON" in self.refused(tmp_path)

    @pytest.mark.parametrize(
        ("place", "value", "expected"),
        [
            ("rows", [], "rows: "),
            ("rows", {}, "rows: "),
            ("rows", [1], "rows.0: "),
            ("rows.0", {}, "rows.0.stage: field required"),
            ("rows.0.stage", 1, "rows.0.stage: "),
            ("rows.1.accuracy", "99 %", "rows.1.accuracy: "),
            ("rows.1.accuracy", 1.5, "rows.1.accuracy: "),
            ("rows.1.accuracy_interval", [1], "rows.1.accuracy_interval: must be two numbers"),
            ("rows.1.accuracy_interval", "wide", "rows.1.accuracy_interval: "),
            ("rows.1.latency_ms", [1.0], "rows.1.latency_ms: "),
            ("rows.1.latency_ms", {"1": "fast"}, "rows.1.latency_ms.1: "),
            ("rows.1.latency_ratio", {"1": 0}, "rows.1.latency_ratio.1: "),
            ("rows.1.latency_ratio_interval", {"1": [1.0]}, "rows.1.latency_ratio_interval.1: "),
            ("rows.1.size_bytes", None, None),
            ("rows.1.size_bytes", True, "rows.1.size_bytes: "),
            ("rows.1.note", {"text": 1, "table": []}, "rows.1.note"),
            ("rows.1.note", {"text": "", "table": [1]}, "rows.1.note"),
            ("rows.1.note", {"text": "", "table": [], "plot": {"x": "a"}}, "rows.1.note"),
            ("rows.1.note", {"text": "", "table": [], "plot": {"x": "a", "y": 1}}, "rows.1.note"),
            ("rows.1.note", {"text": "", "table": [], "plot": {"x": "a", "y": "b", "z": "c"}}, "rows.1.note"),
            ("rows.1.note", {"text": "", "table": [], "plot": "a"}, "rows.1.note"),
            ("rows.1.note", {"text": "", "table": [], "plot": {"x": "a", "y": "b"}}, None),
            ("rows.1.note", {"text": 1.0, "table": 2.0}, None),  # a number by batch size
            ("environment", [], "environment: "),
            ("environment", None, "environment: "),
            ("quality", {"accuracy": "more"}, "quality.accuracy: "),
            ("quality", 5, "quality: "),
            ("quality", [["accuracy", "higher"]], "quality: "),
            ("rows.1.accuracy", 10**400, "rows.1.accuracy: must be a number, found 1000"),
            ("rows.1.size_bytes", -(10**400), "rows.1.size_bytes: must be a number, found -1000"),
            ("rows.1.size_bytes", -1, "rows.1.size_bytes: must be greater than 0, found -1"),
            ("rows.1.latency_ratio", {"1": 1e308}, None),
            ("format", 0, "format: "),
            ("rows.1.duration_s", {"1": 1.0}, "rows.1.duration_s: must be a number, found {'1': 1.0}"),
            ("rows.1.training_loss", 1.0, "rows.1.training_loss: must be a list of numbers, found 1.0"),
            ("rows.1.training_loss", [1.0, None], None),
            ("rows.1.validation_accuracy", 1.0, "rows.1.validation_accuracy: must be a list of numbers, found 1.0"),
            ("rows.1.validation_accuracy", [1.0, "2"], "rows.1.validation_accuracy: must be a list of numbers, found"),
            ("rows.1.validation_loss", [1.0, None], None),
            ("starts", [-1], "starts.0: "),
            ("starts", [0, 99], None),
            ("name", None, "name: "),
            ("seed", "0", "seed: "),
        ],
    )
    def test_a_wrong_value_is_named_with_its_place(self, tmp_path, place, value, expected):
        content = json.loads(json.dumps(report(row("a", change=-0.01, ratio={"1": 0.5})).model_dump(mode="json")))
        target = content
        *path, last = place.split(".")
        for part in path:
            target = target[int(part) if isinstance(target, list) else part]
        target[int(last) if isinstance(target, list) else last] = value
        (tmp_path / "report.json").write_text(json.dumps(content))
        if expected is None:
            assert str(read_report(tmp_path))
        else:
            assert f"{tmp_path / 'report.json'} is not the report of a run: {expected}" in self.refused(tmp_path)

    @pytest.mark.parametrize("value", [10**400, -(10**400), [10**400, 1], {"1": 10**400}])
    def test_a_number_of_a_plugin_that_no_float_can_hold_is_an_error(self, tmp_path, value):
        content = report(row("a")).model_dump(mode="json")
        content["rows"][1]["x.number"] = value
        (tmp_path / "report.json").write_text(json.dumps(content))
        assert "rows.1.x.number" in self.refused(tmp_path)

    def test_an_integer_of_any_length_in_a_note_is_shown(self, tmp_path):
        whole = report(row("a", note=Note("", [{"n": 10**400}, {"n": 1}])))
        assert str(read_report(written(whole, tmp_path)))

    def test_a_file_of_a_newer_format_is_one_sentence(self, tmp_path):
        written(report(), tmp_path)
        (tmp_path / "details.json").write_text('{"format": 2, "anything": []}')
        newer = "was written by a newer version of the toolkit (format 2, "
        with pytest.raises(InputError) as caught:
            read_details(tmp_path)
        assert f"{tmp_path / 'details.json'} {newer}" in str(caught.value)
        (tmp_path / "report.json").write_text('{"format": 2, "anything": []}')
        assert f"{tmp_path / 'report.json'} {newer}" in self.refused(tmp_path)
        assert "pip install -U torch-optimization-toolkit" in self.refused(tmp_path)

    def test_the_first_files_of_the_format_are_read(self, tmp_path):
        content = report().model_dump(mode="json")
        assert content.pop("format") == 1
        (tmp_path / "report.json").write_text(json.dumps(content))
        (tmp_path / "details.json").write_text('{"format": "toolkit details 1"}')
        assert read_report(tmp_path).details == Details()

    @pytest.mark.parametrize("text", ["[]", "1", '"text"', "null", "{}", '{"loss": [1, 2]}', "[" * 100_000, "\ufeff{}"])
    def test_foreign_files_are_one_sentence(self, tmp_path, text):
        (tmp_path / "report.json").write_text(text)
        self.refused(tmp_path)

    def test_neither_is_what_would_fill_the_memory(self, tmp_path):
        (tmp_path / "report.json").write_bytes(b"[" + b"[]," * 3_000_000 + b"[]]")
        assert "must be at most 8 MiB" in self.refused(tmp_path)
        (tmp_path / "report.json").unlink()
        (tmp_path / "report.json").symlink_to("/dev/zero")
        assert "cannot read" in self.refused(tmp_path)

    def test_neither_is_what_is_not_text(self, tmp_path):
        (tmp_path / "report.json").write_bytes(b"\x80\x81")
        self.refused(tmp_path)
        (tmp_path / "report.json").unlink()
        (tmp_path / "report.json").mkdir()
        assert "cannot read" in self.refused(tmp_path)

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_numbers_that_json_does_not_know_are_refused(self, tmp_path, number):
        text = json.dumps(report().model_dump(mode="json")).replace("0.99,", f"{number},")
        (tmp_path / "report.json").write_text(text)
        assert "rows.0.accuracy: " in self.refused(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "[]",
            '{"format": "another"}',
            '{"curves": [{"number": 0}]}',
            LOST % "javascript:alert(1)",
            LOST % r"data:image/png;base64,AAAA\" onload=\"x",
            "[" * 100_000,
        ],
    )
    def test_damaged_details_are_one_sentence(self, tmp_path, content):
        written(report(), tmp_path)
        (tmp_path / "details.json").write_text(content)
        with pytest.raises(InputError, match=r"details\.json"):
            read_details(tmp_path)
        with pytest.raises(InputError, match=r"details\.json"):
            read_report(tmp_path).details


class TestCompare:
    @pytest.fixture
    def runs(self, tmp_path):
        def make(name, *rows, recipe=""):
            (tmp_path / name).mkdir()
            written(report(*rows), tmp_path / name)
            if recipe:
                (tmp_path / name / "recipe.toml").write_text(recipe)
            return tmp_path / name

        return make

    def test_settings_have_places_that_count_from_one(self):
        content = {"seed": 0, "stages": [{"params": {"x": 1}}, {"params": {"x": [1, 2]}}]}
        assert dict(settings_of(content)) == {"seed": "0", "stages.1.params.x": "1", "stages.2.params.x": "[1, 2]"}

    def test_settings_that_differ_and_no_others(self, runs):
        recipes = ['name = "a"\nseed = 0\n[model]\nx = 1', 'name = "a"\nseed = 1\n[model]\ny = 2']
        found = compare(*(runs(str(number), recipe=recipe) for number, recipe in enumerate(recipes)))
        assert found.settings == [("seed", "0", "1"), ("model.x", "1", "–"), ("model.y", "–", "2")]

    def test_numbers_move_beyond_their_intervals_or_not(self):
        assert moved(1.0, 1.0, None, None) == "within"
        assert moved(1.0, 1.1, None, (1.0, 1.2)) == "unknown"
        assert moved(1.0, 1.1, (0.9, 1.1), (1.0, 1.2)) == "within"
        assert moved(1.0, 1.1, (0.95, 1.05), (1.05, 1.15)) == "moved"

    @pytest.mark.parametrize(("ratio", "outcome"), [(0.63, "within"), (0.6, "moved")])
    def test_a_process_moves_a_latency_by_more_than_its_interval_knows(self, runs, ratio, outcome):
        def timed(value):
            return row(
                "a", latency_ms={"1": 1.0}, latency_ratio={"1": value}, latency_ratio_interval={"1": [value, value]}
            )

        found = compare(runs("first", timed(0.67)), runs("second", timed(ratio)))
        assert [number.outcome for number in found.numbers if number.name == "latency_ratio @1"][-1] == outcome

    def test_counts_have_all_their_digits_and_metrics_their_order(self, runs):
        first, second = runs("first", row("a")), runs("second", row("a", nonzero=249_999, sparsity=0.1, macs=999_999))
        found = compare(first, second)
        assert found.of("moved") == [
            ("1 a", "nonzero", "250,000", "249,999", "moved"),
            ("1 a", "macs", "1,000,000", "999,999", "moved"),
        ]
        names = [number.name for number in found.numbers if number.row == "1 a"]
        assert names == ["accuracy", "size", "samples", "parameters", "nonzero", "macs"]

    def test_numbers_of_techniques_are_compared_and_bytes_are_bytes(self, runs):
        first, second = runs("first", row("a", **{"x.a_bytes": 1e6})), runs("second", row("a", **{"x.a_bytes": 2e6}))
        assert compare(first, second).of("unknown") == [("1 a", "x.a_bytes", "1 MB", "2 MB", "unknown")]

    def test_digits_are_added_where_the_format_hides_a_difference(self, runs):
        first, second = runs("first", row("a", size_bytes=1_000_000)), runs("second", row("a", size_bytes=1_000_001))
        assert compare(first, second).of("moved") == [("1 a", "size", "1000000", "1000001", "moved")]

    def test_numbers_that_only_one_run_has_are_listed(self, runs):
        first = runs("first", row("a", latency_ms={"1": 1.0}, **{"x.y": 1.0}))
        second = runs("second", row("a", latency_ms={"1": 1.0, "8": 5.0}))
        found = compare(first, second)
        assert ("1 a", "x.y", "1", "–", "alone") in found.of("alone")
        assert ("1 a", "latency_ms @8", "–", "5 ms", "alone") in found.of("alone")
        assert "Numbers that only one of the runs has" in compare_text.as_text(found)

    def test_rows_pair_by_name_and_then_by_number(self, runs):
        first = runs("first", row("a", accuracy=0.9, accuracy_interval=[0.89, 0.91]), row("b"), row("only"))
        second = runs("second", row("c", size_bytes=5), row("a", accuracy=0.8, accuracy_interval=[0.79, 0.81]))
        found = compare(first, second)
        assert ("1 a", "accuracy", "90.00 %", "80.00 %", "moved") in found.numbers
        assert found.alone == ["b", "only", "c"]
        again = compare(runs("x", row("p", size_bytes=5)), runs("y", row("q", size_bytes=6)))
        assert again.of("moved") == [("1 p / q", "size", "5 B", "6 B", "moved")]

    def test_a_damaged_recipe_is_one_sentence(self, runs):
        first, second = runs("first"), runs("second")
        (second / "recipe.toml").write_text("name = ")
        with pytest.raises(InputError, match=r"second.*is not TOML"):
            compare(first, second)
        (second / "recipe.toml").unlink()
        with pytest.raises(InputError, match=r"cannot read .*second"):
            compare(first, second)

    def test_the_command_prints_and_writes_it(self, runs, tmp_path):
        first = runs("first", row("a"), recipe="seed = 0")
        second = runs("second", row("a", size_bytes=5), recipe="seed = 1")
        page = tmp_path / "diff.html"
        result = CliRunner().invoke(main, ["diff", str(first), str(second), "--html", str(page)])
        assert result.exit_code == 0, result.output
        for text in ("Settings that differ", "seed", "Exact numbers that differ", "1 MB", "5 B", str(page)):
            assert text in result.output
            assert text in page.read_text() or text == str(page)
        result = CliRunner().invoke(main, ["diff", str(first), str(first)])
        assert "The recipes are the same." in result.output
        assert "No exact number differs, and no other one moved beyond its interval." in result.output

    def test_bad_input_ends_the_commands_with_two(self, tmp_path):
        for arguments in (["report", "nowhere"], ["diff", "nowhere", "there"]):
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 2
            assert result.output == "error: run directory nowhere does not exist\n"


class TestCurves:
    @pytest.mark.parametrize("steps", [1, 2, MAX_POINTS, MAX_POINTS + 1, 10 * MAX_POINTS + 7])
    def test_any_length_becomes_few_points_that_keep_the_mean(self, steps):
        recorder = CurveRecorder(1, "a")
        for step in range(1, steps + 1):
            recorder.add(step, steps, float(step))
        curve = recorder.curve()
        assert len(curve.step) <= MAX_POINTS
        assert curve.step[-1] == steps == curve.steps
        counts = [end - start for start, end in zip([0, *curve.step], curve.step, strict=False)]
        weighted = sum(loss * count for loss, count in zip(curve.loss, counts, strict=True))
        assert weighted / steps == pytest.approx((steps + 1) / 2)


class TestLayers:
    def test_a_plain_model(self):
        [first, second] = layers_of(toy_mlp(8))
        assert (first.layer, first.kind, first.weights, first.precision) == ("1", "Linear", 512, "float32")
        assert first.size_bytes == 4 * (512 + 8)
        assert sum(second.histogram.counts) == 32

    def test_masks_are_seen_and_not_the_tensors_below_them(self):
        model = toy_mlp(8)
        mask = torch.ones(8, 64, dtype=torch.bool)
        mask[:4] = False
        masks.apply(model, {"1.weight": mask})
        layer = layers_of(model)[0]
        assert (layer.kind, layer.zeros, layer.sparsity) == ("Linear", 256, 0.5)
        assert sum(layer.histogram.counts) == 256

    def test_replaced_layers_are_known_by_what_they_store(self, tmp_path):
        from toolkit.recipe.read import parse_recipe

        recipe = parse_recipe(RECIPE + '[[stages]]\ntechnique = "quantization"\n', "r.toml", tmp_path)
        toolkit.run(recipe, output=tmp_path / "run")
        before, after = read_report(tmp_path / "run").details.layers
        assert [layer.precision for layer in before] == ["float32"] * 2
        for layer, old in zip(after, before, strict=True):
            assert layer.precision == "int8"
            assert layer.kind.endswith("for Linear")
            assert layer.weights == old.weights
            assert layer.size_bytes < old.size_bytes
            assert layer.histogram.limit == pytest.approx(old.histogram.limit, rel=0.02)

    def test_a_shared_weight_belongs_to_its_first_layer(self):
        found = {layer.layer: layer.weights for layer in layers_of(TiedToy(16))}
        assert found == {"enter": 1024, "first": 256, "second": 16, "leave": 64}

    def test_every_layer_with_weights_is_there_in_order(self):
        assert [layer.layer for layer in layers_of(toy_cnn())] == ["0", "1", "3", "6"]
        assert layers_of(nn.ReLU()) == []

    def test_histograms_leave_out_zeros_and_what_is_not_finite(self):
        found = histogram(torch.tensor([0.0, 1.0, -2.0, math.inf, math.nan]))
        assert (found.limit, sum(found.counts), len(found.counts)) == (2.0, 2, BINS)
        assert histogram(torch.zeros(3)) is None


class TestSamples:
    def test_only_what_the_baseline_alone_gets_right_is_shown(self):
        data = toy_data()
        torch.manual_seed(0)
        before, after = (answers(toy_mlp(), data, "test") for _ in range(2))
        lost = lost_samples(before, after, data, "test")
        assert lost.lost == int((before.correct & ~after.correct).sum()) > 0
        assert lost.gained == int((after.correct & ~before.correct).sum())
        assert len(lost.samples) == min(lost.lost, MAX_SAMPLES)
        for sample in lost.samples:
            assert sample.target == sample.baseline == str(int(data.test[1][sample.index]))
            assert sample.final == str(int(after.given[sample.index])) != sample.target
            assert sample.picture is not None

    @pytest.mark.parametrize("of_dataset", [False, True])
    def test_classes_have_names_where_the_data_has_them(self, of_dataset):
        names, data = ["ant", "bee", "cat", "dog"], toy_data()
        if of_dataset:
            dataset = torch.utils.data.TensorDataset(*data.test)
            dataset.classes = names
            data = dataclasses.replace(data, test=torch.utils.data.Subset(dataset, range(len(dataset))))
        else:
            data = dataclasses.replace(data, classes=names)
        before, after = (answers(toy_mlp(), data, "test") for _ in range(2))
        for sample in lost_samples(before, after, data, "test").samples:
            assert sample.final == names[int(after.given[sample.index])]
            assert sample.target == sample.baseline == names[int(before.given[sample.index])]

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_picture_is_a_small_png(self, channels):
        image = torch.rand(channels, 200, 100)
        data = picture(image).removeprefix("data:image/png;base64,")
        opened = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (opened.format, opened.size, opened.mode) == ("PNG", (32, 64), "L" if channels == 1 else "RGB")

    @pytest.mark.parametrize("shape", [(2, 8, 8), (8, 8), (1, 2, 8), (10,), (1, 1, 8, 8)])
    def test_what_looks_like_no_picture_is_none(self, shape):
        assert picture(torch.rand(shape)) is None

    def test_constant_and_broken_pictures_are_drawn(self):
        assert picture(torch.zeros(1, 8, 8))
        assert picture(torch.full((3, 8, 8), math.nan))
        assert picture(torch.ones(1, 8, 8, dtype=torch.uint8))


RECIPE = """
name = "toy"
[model]
source = "toolkit.testing:toy_mlp"
training = { epochs = 1, lr = 1e-2 }
[data]
source = "toolkit.testing:toy_data"
batch_size = 64
[measure]
budget = 0.1
"""


def test_details_come_back_as_they_were():
    details = Details(layers=[layers_of(toy_mlp())])
    assert Details.model_validate_json(details.model_dump_json(exclude_none=True)) == details


def test_a_terminal_shows_equal_reasons_once_and_markdown_all_layers():
    table = [{"layer": f"bn{number}", "reason": "it is called with other shapes"} for number in range(30)]
    report = Report(name="r", seed=0, rows=(BASELINE, row("a", **{"x.kept": Note("", table)})), environment=ENVIRONMENT)
    assert "30 layers: bn0 … bn29  it is called with other shapes" in as_text(report)
    assert "more in report.md" not in as_text(report)
    assert "| bn17    | it is called" in as_markdown(report)
