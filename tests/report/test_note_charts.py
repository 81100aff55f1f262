"""Notes that are drawn: which lines, under which names, within which bounds, and where the table is shown instead."""

import json
import time
from xml.etree import ElementTree

import matplotlib.colors
import pytest

from toolkit.report import Report
from toolkit.report.charts import charts
from toolkit.report.charts.drawing import BASE
from toolkit.report.charts.note_charts import MAX_CHARTS, MAX_LINES, MAX_ROWS, lines_of
from toolkit.report.page import render
from toolkit.report.reader import read_report
from toolkit.report.table import as_markdown, as_text
from toolkit.rows import Note, Plot, Row

PLOT = Plot("sparsity", "drop", "layer")
TABLE = [
    {"layer": layer, "sparsity": sparsity, "drop": drop}
    for layer, drops in {"fc1": (0.25, 3.0), "fc2": (0.5, 40.0)}.items()
    for sparsity, drop in zip((0.5, 0.9), drops, strict=True)
]


def report(*notes):
    return Report(
        name="r",
        seed=0,
        rows=(Row("baseline"), Row("a", {f"x.note{n}": note for n, note in enumerate(notes)})),
        environment={},
    )


def drawn(table, plot=PLOT):
    """The chart of one note, and its axes."""
    [chart] = charts(report(Note("told", table, plot))).notes
    return chart, chart.figure.axes[0]


def named(chart):
    return [text.get_text() for legend in chart.figure.legends for text in legend.get_texts()]


def shown(page):
    return "".join(ElementTree.fromstring(page.strip().removeprefix("<!DOCTYPE html>").encode()).itertext())


def test_there_is_a_line_for_each_value_of_the_series():
    chart, axes = drawn(TABLE)
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert lines == [([0.5, 0.9], [0.25, 3.0]), ([0.5, 0.9], [0.5, 40.0])]
    assert named(chart) == ["fc1", "fc2"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("sparsity", "drop")
    assert chart.title == "1 a: x: note0"
    assert (
        chart.text
        == "drop over sparsity: fc1 goes from 0.25 at 0.5 to 3 at 0.9; fc2 goes from 0.5 at 0.5 to 40 at 0.9."
    )


def test_without_a_series_there_is_one_line_in_the_order_of_the_table():
    chart, axes = drawn([{"a": 2, "b": 1.0}, {"a": 1, "b": 3.0}], Plot("a", "b"))
    assert [list(line.get_xdata()) for line in axes.lines] == [[2, 1]]
    assert named(chart) == []
    assert "it goes from 1 at 2 to 3 at 1" in chart.text


@pytest.mark.parametrize("wrong", [None, "0.5", True, float("nan"), float("inf"), -1e300, 10**400, [1.0], {"a": 1.0}])
def test_rows_without_two_numbers_are_left_out(wrong):
    table = [
        *TABLE,
        {"layer": "fc2", "sparsity": 0.95, "drop": wrong},
        {"layer": "fc2", "sparsity": wrong, "drop": 1.0},
    ]
    assert lines_of([*table, {"layer": "fc3"}], PLOT) == lines_of(TABLE, PLOT)


def test_of_many_lines_those_that_reach_furthest_have_names_and_the_rest_is_grey():
    table = [{"layer": f"l{n}", "x": x, "y": x * (n if n % 2 else -n)} for n in range(20) for x in (1, 2)]
    chart, axes = drawn(table, Plot("x", "y", "layer"))
    assert named(chart) == [*(f"l{n}" for n in range(12, 20)), "12 others"]
    grey = [line for line in axes.lines if matplotlib.colors.to_hex(line.get_color()) == BASE]
    assert len(grey) == 12
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines if line not in grey}
    assert len(styles) == 8  # no two of those with names look alike
    assert "and 12 lines with smaller values" in chart.text


def test_the_page_draws_it_and_keeps_the_table_beside_it():
    page = render(report(Note("told", TABLE, PLOT), Note("bare", TABLE)))
    assert page.count("<svg") == 1
    assert "told" in shown(page)
    assert page.count("fc2</th>") == 4  # two rows in each of two tables, of which one is folded up under its chart
    assert page.count("<figcaption><details><summary>In numbers") == 1
    assert set(report(Note("", TABLE, PLOT)).plot()) == {"note-1-x.note0"}


@pytest.mark.smoke
def test_elsewhere_it_is_a_table():
    note, bare = report(Note("told", TABLE, PLOT)), report(Note("told", TABLE))
    assert as_text(note) == as_text(bare)
    assert as_markdown(note) == as_markdown(bare)
    assert "| fc2     |      0.900 | 40.000 |" in as_markdown(note)


def test_a_layer_that_is_named_like_a_number_keeps_its_name():
    names = ["0", "3.0", "1e5"]
    text = as_text(report(Note("", [{"layer": name, "energy": 0.5} for name in names])))
    assert [line.split() for line in text.splitlines() if line.endswith("0.500")] == [[name, "0.500"] for name in names]


@pytest.mark.parametrize("plot", [Plot("no", "drop"), Plot("sparsity", "layer"), Plot("layer", "drop", "no")])
def test_with_nothing_to_draw_the_page_has_the_table(plot):
    page = render(report(Note("told", TABLE, plot)))
    assert "<svg" not in page
    assert page.count("fc2</th>") == 2
    assert "1 a: x: note0" in page


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-1e30, 1e30], [1e-300, 2e-300], [10**20, 1]])
def test_any_numbers_are_drawn(values):
    table = [{"x": value, "y": value} for value in values]
    assert render(report(Note("", table, Plot("x", "y")))).count("<svg") == 1


def test_names_from_anywhere_are_text():
    evil = "_<b>$x\x00\ud800\n" + "y" * 100
    table = [{evil: 1.0, "x": 1.0, "series": evil}, {evil: 1.0, "x": 1.0, "series": ""}]
    page = render(report(Note("", table, Plot("x", evil, "series"))))
    assert shown(page).count("<b>$x") >= 1
    assert "<b>$x" not in page
    assert "\x00" not in page
    chart, _ = drawn(table, Plot("x", evil, "series"))
    assert len(named(chart)) == 2


class TestBounds:
    """Of a report that somebody else wrote."""

    def page_of(self, directory, notes):
        (directory / "report.json").write_text(json.dumps(report(*notes).model_dump(mode="json")))
        began = time.monotonic()
        page = render(read_report(directory))
        assert time.monotonic() - began < 30
        return page

    def test_many_rows_and_lines(self, tmp_path):
        table = [{"layer": str(n), "sparsity": n, "drop": n} for n in range(50_000)]
        assert len(lines_of(table, PLOT)) == MAX_LINES
        assert sum(len(line.x) for line in lines_of(table, Plot("sparsity", "drop"))) == MAX_ROWS
        page = self.page_of(tmp_path, [Note("", table, PLOT)])
        assert page.count("<svg") == 1
        assert len(page) < 500_000

    @pytest.mark.slow
    def test_many_notes(self, tmp_path):
        page = self.page_of(tmp_path, [Note("", TABLE, PLOT)] * (MAX_CHARTS + 100))
        assert page.count("<svg") == MAX_CHARTS
        assert page.count("fc2</th>") == 2 * (MAX_CHARTS + 100)

    def test_long_names(self, tmp_path):
        name = "n" * 1_000_000
        table = [{"layer": name, "x": 1, name: 1}, {"layer": name, "x": 2, name: 2}]
        assert self.page_of(tmp_path, [Note("", table, Plot("x", name, "layer"))]).count("<svg") == 1


class TestOfATechnique:
    @pytest.mark.parametrize(
        ("plot", "sentence"),
        [
            (
                "Plot('sparsty', 'drop')",
                "draws the note 'scan' with an unknown column 'sparsty'; known: layer, ",
            ),
            ("Plot('sparsity', 'drop', 'lair')", "with an unknown column 'lair'; known: layer, "),
            (
                "{'x': 'sparsity'}",
                "1 validation error for Note plot.y Field required",
            ),
        ],
    )
    def test_a_plot_of_columns_that_are_not_there_is_an_error(self, make_plugin, recipe_run, plot, sentence):
        make_plugin("drawer", PLUGIN.replace("PLOT", plot))
        assert sentence in recipe_run('[[stages]]\ntechnique = "drawer"').error

    def test_it_reaches_the_report(self, make_plugin, recipe_run):
        make_plugin("drawer", PLUGIN.replace("PLOT", "Plot('sparsity', 'drop', 'layer')"))
        outcome = recipe_run('[[stages]]\ntechnique = "drawer"')
        assert outcome.rows[1]["drawer.scan"] == Note("told", TABLE[:2], PLOT)
        assert "note-1-drawer.scan" in outcome.report.plot()


PLUGIN = f"""
import toolkit
from toolkit import Plot

@toolkit.hookimpl
def measure():
    return {{"scan": toolkit.Note("told", {TABLE[:2]}, plot=PLOT)}}
"""
