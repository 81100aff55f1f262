"""The page: made of a run directory's files alone, whole, safe, well-formed, and readable in a real browser."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib.colors
import matplotlib.figure
import pytest
import torch
from click.testing import CliRunner

import toolkit
from toolkit.cli import main
from toolkit.data.splits import Data
from toolkit.number_text import printable
from toolkit.report import Report
from toolkit.report.charts import charts
from toolkit.report.charts.drawing import BAD, BASE, GOOD, STYLE
from toolkit.report.charts.layer_charts import histograms
from toolkit.report.charts.svg import SVG, XLINK, inline_svg
from toolkit.report.compare import compare
from toolkit.report.compare_text import as_page
from toolkit.report.details import Curve, Details, Histogram, Layer, Lost, Sample
from toolkit.report.page import render
from toolkit.report.reader import read_report
from toolkit.rows import Note, Row
from toolkit.tasks import Task

pytestmark = pytest.mark.page
XHTML = "{http://www.w3.org/1999/xhtml}"
RECIPE = """
name = "toy"
[model]
source = "toolkit.testing:toy_cnn"
training = { epochs = 3, lr = 1e-2 }
[data]
source = "toolkit.testing:toy_data"
args = { noise = 2.0 }
batch_size = 64
[measure]
budget = 0.2
[[stages]]
technique = "pruning"
params = { sparsity = 0.95 }
finetune = { epochs = 1 }
[[stages]]
technique = "quantization"
"""
EVIL = "<script>alert(1)</script>\"'&$\\frac{\x00"
HALF = "\ud800"  # half of a character, which a text may hold and UTF-8 cannot


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "toy.toml").write_text(RECIPE)
    torch.set_num_threads(1)
    toolkit.run(folder / "toy.toml", output=folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def page(directory):
    return (directory / "report.html").read_text(encoding="utf-8")


def parsed(text):
    """The page as XML, which it is as well, so that any mistake in its nesting or escaping is an error."""
    return ElementTree.fromstring(text.strip().removeprefix("<!DOCTYPE html>").encode())


class Strict(HTMLParser):
    """What a browser's parser sees: every tag by name, and all data outside of tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes


def sections(text):
    return [element.get("id") for element in parsed(text).iter(f"{XHTML}section")]


def drawn(text):
    return list(parsed(text).iter(f"{{{SVG}}}svg"))


class TestOfARun:
    @pytest.mark.smoke
    def test_it_has_every_section_in_order(self, page):
        wanted = ["verdict", "table", "stages", "layers", "histograms", "curves", "lost", "notes", "repeat"]
        assert sections(page) == wanted

    def test_verdict_and_table_are_those_of_the_terminal(self, directory, page):
        report = read_report(directory)
        text = " ".join("".join(parsed(page).itertext()).split())
        for row in report.rows:
            assert f"{100 * row['accuracy']:.2f} %" in text
        assert "After 2 stages, the model is " in text
        assert "1 pruning: " in text

    def test_every_chart_is_there_with_its_words_and_numbers(self, directory, page):
        names = {chart.name for chart in charts(read_report(directory))}
        assert names >= {"stages-accuracy", "stages-bytes", "stages-latency-1", "stages-latency-64"}
        assert names >= {"quality-size", "layers-sparsity", "layers-bytes", "histogram-0", "curve-0", "curve-1"}
        found = drawn(page)
        assert len(found) == len(names)
        ids = {element.get("id"): element for element in parsed(page).iter() if element.get("id")}
        for svg in found:
            assert svg.get("role") == "img"
            assert svg.get("viewBox")
            for identifier in svg.get("aria-labelledby").split():
                assert ids[identifier].text.strip()
        for figure in parsed(page).iter(f"{XHTML}figure"):
            assert len(list(figure.iter(f"{XHTML}tr"))) >= 2

    def test_ids_are_unique_and_every_reference_has_its_target(self, page):
        ids = [element.get("id") for element in parsed(page).iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        for element in parsed(page).iter():
            for name, value in element.attrib.items():
                targets = re.findall(r"url\(#([^)]*)\)", value)
                targets += [value[1:]] if name == f"{{{XLINK}}}href" and value.startswith("#") else []
                assert set(targets) <= set(ids), value

    def test_nothing_outside_of_it_is_needed(self, page):
        assert not re.findall(r"""(?:src|href)=["'](?!data:|\#)""", page)
        assert "@import" not in page
        assert not re.findall(r"url\((?!#)", page)
        assert {"script", "link", "iframe", "object"}.isdisjoint(Strict(page).tags)
        assert "default-src 'none'" in page

    def test_it_follows_the_readers_colours(self, page):
        assert "prefers-color-scheme: dark" in page
        for svg in drawn(page):
            text = ElementTree.tostring(svg, encoding="unicode")
            assert not set(re.findall(r"#[0-9a-f]{6}", text)), "a colour that no mode changes"
            assert "var(--ink)" in text or "var(--muted)" in text
            assert "DejaVu" not in text
        used = set(re.findall(r"var\(--([a-z0-9-]+)\)", page))
        assert used <= set(re.findall(r"--([a-z0-9-]+):", page))

    def test_it_is_light(self, page):
        assert len(page.encode()) < 400_000

    @pytest.mark.smoke
    def test_it_is_rebuilt_from_the_files_alone(self, directory, page, tmp_path):
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("report.json", "details.json", "recipe.toml"):
            shutil.copy(directory / name, copy)
        result = CliRunner().invoke(main, ["report", str(copy)])
        assert result.exit_code == 0, result.output
        assert (copy / "report.html").read_text() == page
        assert (copy / "report.md").read_text() == (directory / "report.md").read_text()
        assert result.output.endswith(f"\nPage: {copy / 'report.html'}\n")

    def test_it_says_how_to_repeat_the_run(self, directory, page):
        [recipe] = [pre.text for pre in parsed(page).iter(f"{XHTML}pre") if "[[stages]]" in (pre.text or "")]
        assert recipe.strip() == (directory / "recipe.toml").read_text().strip()
        assert "toolkit run recipe.toml" in page

    def test_samples_lost_are_pictures(self, directory, page):
        lost = read_report(directory).details.lost
        assert lost.samples
        pictures = list(parsed(page).iter(f"{XHTML}img"))
        assert len(pictures) == len(lost.samples)
        assert all(element.get("alt").startswith("Sample ") for element in pictures)

    def test_the_report_that_run_returned_draws_and_shows_itself(self, directory):
        report = read_report(directory)
        figures = report.plot()
        assert {"stages-accuracy", "quality-size", "curve-0", "layers-bytes"} <= set(figures)
        assert all(isinstance(figure, matplotlib.figure.Figure) for figure in figures.values())
        shown = report._repr_html_()
        assert "<table>" in shown
        assert "After 2 stages" in shown
        ElementTree.fromstring(shown)

    def test_drawing_leaves_matplotlib_as_it_was(self, directory):
        before = dict(matplotlib.rcParams)
        render(read_report(directory))
        assert dict(matplotlib.rcParams) == before
        assert STYLE["text.parse_math"] is False


class TestOfAnything:
    """Pages of reports that no run here makes: hostile, huge, empty."""

    @pytest.fixture
    def page_of(self, tmp_path):
        def page_of(report, details=None, recipe=""):
            (tmp_path / "report.json").write_text(json.dumps(report.model_dump(mode="json")))
            if details is not None:
                (tmp_path / "details.json").write_text(json.dumps(details.model_dump(exclude_none=True)))
            (tmp_path / "recipe.toml").write_text(recipe)
            return render(read_report(tmp_path))

        return page_of

    def test_names_are_text_and_never_markup(self, page_of):
        row = {
            "accuracy": 0.9,
            "size_bytes": 10,
            EVIL: Note(EVIL + HALF, [{EVIL: EVIL + HALF}]),
            f"x.{EVIL}": 1.0,
            "latency_ms": {EVIL: 1.0},
            "latency_ratio": {EVIL: 1.0},
            EVIL + "m": 1.0,
        }
        report = Report(
            name=EVIL,
            seed=0,
            rows=(Row(EVIL, row), Row(EVIL, row)),
            environment={EVIL: EVIL, "toolkit": EVIL},
            quality={"accuracy": "higher", EVIL + "m": "lower"},
        )
        evil = printable(EVIL)
        layer = Layer(
            layer=evil,
            kind=evil,
            weights=4,
            zeros=1,
            precision=evil,
            size_bytes=16,
            histogram=Histogram(limit=1, counts=[1, 2]),
        )
        sample = Sample(index=0, target=evil, baseline=evil, final=evil, picture="data:image/png;base64,AAAA")
        details = Details(
            curves=[Curve(number=0, stage=evil, steps=2, step=[1, 2], loss=[2.0, 1.0])],
            layers=[[layer], [layer]],
            lost=Lost(split=evil, lost=1, gained=0, samples=[sample]),
        )
        text = page_of(report, details, "# <script>alert(2)</script>")
        assert parsed(text) is not None
        seen = Strict(text)
        assert "script" not in seen.tags
        assert not [name for name, _ in seen.attributes if name.startswith("on")]
        assert "\x00" not in text
        assert text.count("alert(1)") > 20
        summary = report._repr_html_()
        assert "script" not in Strict(summary).tags

    def test_the_page_of_a_difference_is_no_less_careful(self, tmp_path):
        for name, accuracy in (("a<b>", 0.5), ("c", 0.6)):
            (tmp_path / name).mkdir()
            report = Report(
                name="r", seed=0, rows=(Row("<i>", {"accuracy": accuracy, "size_bytes": accuracy}),), environment={}
            )
            (tmp_path / name / "report.json").write_text(json.dumps(report.model_dump(mode="json")))
            (tmp_path / name / "recipe.toml").write_text(f"x = '<b>{accuracy}</b>'")
        text = as_page(compare(tmp_path / "a<b>", tmp_path / "c"))
        assert {"b", "i"}.isdisjoint(Strict(text).tags)
        assert "".join(parsed(text).itertext()).count("<b>0.5</b>") == 1

    def test_nothing_measured_is_a_page_too(self, page_of):
        text = page_of(Report(name="empty", seed=0, rows=(Row("baseline"),), environment={}))
        assert sections(text) == ["verdict", "table", "repeat"]
        assert not drawn(text)
        bare = Report(name="empty", seed=0, rows=(Row("baseline"),), environment={})
        assert bare.plot() == {}
        assert "Only the baseline" in bare._repr_html_()

    def test_a_report_without_a_directory_draws_what_its_rows_say(self):
        values = {"accuracy": 0.9, "size_bytes": 10, "training_loss": [1.0, 0.5]}
        assert set(
            Report(name="r", seed=0, rows=(Row("baseline", values), Row("a", values)), environment={}).plot()
        ) == {*("stages-accuracy", "stages-bytes", "quality-size", "curve-0", "curve-1")}

    @pytest.mark.slow
    def test_a_big_model_still_fits(self, page_of):
        layers = [
            Layer(
                layer=f"features.block{number}.attention.projection.linear",
                kind="Linear",
                weights=10**6 + number,
                zeros=number,
                precision="float32",
                size_bytes=4 * 10**6,
                histogram=Histogram(limit=1.0, counts=list(range(41))),
            )
            for number in range(300)
        ]
        rows = tuple(Row(f"stage-{number}", {"accuracy": 0.9, "size_bytes": 10**8 + number}) for number in range(20))
        curve = {"steps": 10**6, "step": list(range(1, 401)), "loss": [1 / number for number in range(1, 401)]}
        curves = [Curve(number=number, stage=f"stage-{number}", **curve) for number in range(20)]
        text = page_of(
            Report(name="big", seed=0, rows=rows, environment={}), Details(layers=[layers] * 20, curves=curves)
        )
        assert parsed(text) is not None
        assert len(text.encode()) < 1_000_000
        assert "features.block299.attention.projection.linear" in text

    @pytest.mark.parametrize("loss", [[0.0, 0.0], [-1.0, 2.0], [1e-30, 1e30], [1.0]])
    def test_any_loss_is_drawn(self, page_of, loss):
        curve = Curve(number=0, stage="baseline", steps=2, step=[1, 2][: len(loss)], loss=loss)
        assert (
            len(
                drawn(
                    page_of(Report(name="r", seed=0, rows=(Row("baseline"),), environment={}), Details(curves=[curve]))
                )
            )
            == 1
        )

    @pytest.mark.parametrize("values", [(0.5, 0.5), (0.0, 0.0), (1e-9, 1e9), (-3.0, 2.0)])
    def test_any_metric_is_drawn(self, page_of, values):
        rows = tuple(Row(f"s{number}", {"mine": value, "size_bytes": 1}) for number, value in enumerate(values))
        assert len(drawn(page_of(Report(name="r", seed=0, rows=rows, environment={}, quality={"mine": "lower"})))) == 3

    def test_a_layer_without_weights_or_bytes_is_drawn(self, page_of):
        layer = Layer(layer="", kind="Odd", weights=0, zeros=0, precision="int8", size_bytes=0)
        assert (
            len(drawn(page_of(Report(name="r", seed=0, rows=(Row("b"),), environment={}), Details(layers=[[layer]]))))
            == 2
        )


class Regression(Task):
    def loss(self, outputs, batch):
        return (outputs[:, 0] - batch.targets.float()).square().mean()


def regression():
    inputs = torch.rand(128, 64, generator=torch.Generator().manual_seed(0))
    targets = inputs.sum(dim=1)
    return Data(train=(inputs, targets), test=(inputs, targets), task=Regression())


def test_a_task_without_right_answers_gets_a_page(tmp_path):
    recipe = f"""
    [model]
    source = "toolkit.testing:toy_mlp"
    training = {{ epochs = 1 }}
    [data]
    source = "{__file__}:regression"
    [measure]
    budget = 0.1
    [[stages]]
    technique = "pruning"
    """
    (tmp_path / "regression.toml").write_text(recipe)
    toolkit.run(tmp_path / "regression.toml", output=tmp_path / "run")
    text = (tmp_path / "run" / "report.html").read_text()
    assert "lost" not in sections(text)
    assert "oss changed from" in text


def test_a_chart_that_cannot_be_drawn_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    def broken(report):
        raise RuntimeError("no ink")

    monkeypatch.setattr("toolkit.report.charts.charts", broken)
    (tmp_path / "toy.toml").write_text(RECIPE)
    report = toolkit.run(tmp_path / "toy.toml", {"stages.1.finetune.epochs": 1}, output=tmp_path / "run")
    assert len(report.rows) == 3
    assert not (tmp_path / "run" / "report.html").exists()
    assert "cannot write report.html" in (tmp_path / "run" / "log.txt").read_text()


def test_an_unfinished_run_is_shown(directory, tmp_path):
    report = read_report(directory)
    part = report.model_copy(update={"rows": report.rows[:2]})
    (tmp_path / "report.json").write_text(json.dumps(part.model_dump(mode="json")))
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "After one stage" in result.output


def test_a_change_within_its_interval_is_grey():
    def row(stage, accuracy, ratio):
        return Row(
            stage,
            {
                "accuracy": accuracy,
                "accuracy_interval": [accuracy - 0.02, accuracy + 0.02],
                "latency_ms": {"1": ratio},
                "latency_spread_ms": {"1": [ratio - 0.5, ratio + 0.5]},
                "latency_ratio": {"1": ratio},
                "latency_ratio_interval": {"1": [ratio - 0.01, ratio + 0.01]},
            },
        )

    rows = (row("baseline", 0.9, 1.0), row("a", 0.89, 0.9), row("b", 0.8, 0.9), row("c", 0.9, 1.1))
    figures = Report(name="r", seed=0, rows=rows, environment={}).plot()

    def colours(name):
        return [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in figures[name].axes[0].patches]

    assert colours("stages-accuracy") == [BASE, BASE, BAD, GOOD]
    assert colours("stages-latency-1") == [BASE, GOOD, BASE, BAD]


def test_bars_are_what_is_left_and_the_change_of_the_stage_stands_beside_them():
    sizes, ratios, accuracies = (1000, 500, 500, 600), (1.0, 0.5, 0.75, 0.75), (0.99, 0.98, 0.98, 0.99)
    rows = tuple(
        Row(
            f"s{number}",
            {
                "accuracy": accuracy,
                "size_bytes": size,
                "latency_ms": {"1": 2 * ratio},
                "latency_ratio": {"1": ratio},
                "latency_ratio_interval": {"1": [ratio - 0.001, ratio + 0.001]},
            },
        )
        for number, (size, ratio, accuracy) in enumerate(zip(sizes, ratios, accuracies, strict=True))
    )
    drawn_charts = {chart.name: chart for chart in charts(Report(name="r", seed=0, rows=rows, environment={}))}

    def bars(name):
        patches = drawn_charts[name].figure.axes[0].patches
        assert {bar.get_x() for bar in patches} == {0.0}
        return [round(bar.get_width(), 6) for bar in patches]

    def changes(name):
        return [line["change by the stage"] for line in drawn_charts[name].table]

    assert bars("stages-bytes") == [1000, 500, 500, 600]
    assert bars("stages-latency-1") == [2, 1, 1.5, 1.5]
    assert bars("stages-accuracy") == [1, 2, 2, 1]
    assert changes("stages-bytes") == ["", "2.00× smaller", "no change", "1.20× larger"]
    assert changes("stages-latency-1") == ["", "2.00× as fast", "1.50× slower", "no change"]
    assert changes("stages-accuracy") == ["", "+1.00 points", "no change", "−1.00 points"]
    notes = [text.get_text() for text in drawn_charts["stages-bytes"].figure.axes[0].child_axes[0].get_yticklabels()]
    assert notes == ["1 kB", "500 B\n2.00× smaller", "500 B\nno change", "600 B\n1.20× larger"]


@pytest.mark.slow
def test_matplotlib_is_imported_only_to_draw():
    code = """
import sys
from toolkit.report import Report
from toolkit.rows import Row
from toolkit.report.compare_text import as_page
Report(name="r", seed=0, rows=(Row("baseline"),), environment={})._repr_html_()
print([name for name in sys.modules if name.startswith("matplotlib")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_ids_of_charts_differ_whatever_their_names():
    report = Report(
        name="r",
        seed=0,
        rows=tuple(Row(f"s{n}", {"a b": n, "a/b": n}) for n in range(2)),
        environment={},
        quality={"a b": "lower", "a/b": "lower"},
    )
    identifiers = re.findall(r' id="([^"]*)"', "".join(inline_svg(chart) for chart in charts(report)))
    assert len(identifiers) == len(set(identifiers))


PROBE = """
<script>
addEventListener("load", () => {
  const box = element => element.getBoundingClientRect();
  const charts = [...document.querySelectorAll("figure svg")].map(svg => {
    const outer = box(svg);
    const texts = [...svg.querySelectorAll("text")].filter(text => text.textContent.trim());
    const scale = outer.width / svg.viewBox.baseVal.width;
    return {
      name: svg.getAttribute("aria-labelledby"), width: outer.width, height: outer.height,
      smallest: Math.min(...texts.map(text => parseFloat(getComputedStyle(text).fontSize) * scale)),
      clipped: texts.filter(text => box(text).left < outer.left - 1 || box(text).right > outer.right + 1)
        .map(text => text.textContent),
      colours: [...new Set(texts.map(text => getComputedStyle(text).fill))],
    };
  });
  const root = document.documentElement, style = getComputedStyle(document.body);
  const card = document.querySelector("figure");
  const pictures = [...document.querySelectorAll("img")];
  const found = {
    charts, overflow: root.scrollWidth - root.clientWidth, width: root.clientWidth,
    paper: style.backgroundColor, ink: style.color, card: card && getComputedStyle(card).backgroundColor,
    smallest: Math.min(...[...document.querySelectorAll("p, li, td, th, summary, h1, h2, h3, pre")]
      .map(element => parseFloat(getComputedStyle(element).fontSize))),
    broken: pictures.filter(picture => !picture.complete || !picture.naturalWidth).length,
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script>
"""
FRAME = """<!DOCTYPE html><html><body style="margin:0"><pre id="found"></pre>
<script>addEventListener("message", event => document.getElementById("found").textContent = event.data);</script>
<iframe src="probed.html" style="border:0;width:{width}px;height:2000px"></iframe></body></html>"""
FLAGS = [
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
        "--hide-scrollbars",
    ),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"),
]


def contrast(one, other):
    """The contrast of two CSS colours as WCAG 2 defines it, from 1 to 21."""

    def luminance(colour):
        channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.slow
class TestInABrowser:
    @pytest.fixture
    def browse(self, tmp_path):
        browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if browser is None:
            pytest.skip("there is no Chromium: apt-get install chromium")

        def browse(file, *flags):
            command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, file.as_uri()]
            return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

        return browse

    def test_the_page_as_it_is_leaves_no_message_on_the_console(self, browse, directory):
        done = browse(directory / "report.html", "--dump-dom")
        assert "CONSOLE" not in done.stderr
        assert "<h2>All rows</h2>" in done.stdout

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("width", [400, 1400])
    def test_everything_is_there_and_can_be_read(self, browse, page, tmp_path, width, dark):
        # A headless window is never narrower than 500 pixels, a frame is.
        (tmp_path / "probed.html").write_text(
            re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", f"{PROBE}</body>")
        )
        (tmp_path / "frame.html").write_text(FRAME.format(width=width))
        scheme = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        done = browse(
            tmp_path / "frame.html", "--dump-dom", "--window-size=1500,2000", "--virtual-time-budget=5000", *scheme
        )
        assert "CONSOLE" not in done.stderr
        found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1].replace("&amp;", "&"))
        assert (found["width"], found["overflow"], found["broken"]) == (width, 0, 0)
        assert len(found["charts"]) == page.count("<figure>")
        assert found["smallest"] >= 12
        for chart in found["charts"]:
            assert chart["width"] > 200, chart
            assert chart["height"] > 80, chart
            assert chart["smallest"] >= 9, chart
            assert chart["clipped"] == [], chart
            for colour in chart["colours"]:
                assert contrast(colour, found["card"]) >= 4.5, chart
        assert contrast(found["ink"], found["paper"]) >= 7
        assert (contrast(found["paper"], "rgb(0, 0, 0)") < 2) == dark


def test_warnings_and_broken_promises_are_near_the_top():
    breach = Note("the stage undid 3 zeros", [{"layer": "fc", "before": 3}])
    warning = Note(table=[{"warning": "train <longer>"}])
    rows = (Row("baseline", {"warnings": warning}), Row("a", {"promises": breach}))
    page = render(Report(name="r", seed=0, rows=rows, environment={}))
    assert sections(page)[:3] == ["verdict", "warnings", "table"]
    [section] = [element for element in parsed(page).iter(f"{XHTML}section") if element.get("id") == "warnings"]
    lines = [item.text for item in section.iter(f"{XHTML}li")]
    assert lines == ["0 baseline: train <longer>", "1 a: the stage undid 3 zeros"]


def test_equal_reasons_are_one_line():
    table = [{"layer": f"bn{number}", "weights": 16 + number, "reason": "is a BatchNorm2d"} for number in range(20)]
    table.insert(1, {"layer": "head", "weights": 5, "reason": "was kept"})
    rows = (Row("baseline"), Row("a", {"x.float": Note("", table)}))
    page = render(Report(name="r", seed=0, rows=rows, environment={}))
    [section] = [element for element in parsed(page).iter(f"{XHTML}section") if element.get("id") == "notes"]
    lines = [[cell.text for cell in line] for line in section.iter(f"{XHTML}tr")]
    assert lines[1:] == [["20 layers: bn0 … bn19", "16 … 35", "is a BatchNorm2d"], ["head", "5", "was kept"]]


def test_numbers_of_techniques_have_a_label_their_plugin_and_headings():
    rows = (Row("baseline"), Row("a", {"x.output_error": 0.001887}))
    page = render(Report(name="r", seed=0, rows=rows, environment={"torch": "2"}))
    [section] = [element for element in parsed(page).iter(f"{XHTML}section") if element.get("id") == "notes"]
    lines = [[cell.text for cell in line] for line in section.iter(f"{XHTML}tr")]
    assert lines == [["row", "measured by", "number", "value"], ["1 a", "x", "output error", "0.001887"]]
    assert [cell.get("title") for cell in section.iter(f"{XHTML}td") if cell.get("title")] == [
        "x.output_error in report.json"
    ]


def test_every_table_has_headings(page):
    for table in parsed(page).iter(f"{XHTML}table"):
        assert table.find(f"{XHTML}thead") is not None
    [table] = [element for element in parsed(page).iter(f"{XHTML}section") if element.get("id") == "table"]
    assert all(heading.get("title") for heading in table.iter(f"{XHTML}thead").__next__().iter(f"{XHTML}th"))


def test_a_histogram_of_a_few_values_is_not_drawn_and_legends_are_outside():
    def layer(name, counts):
        histogram = Histogram(limit=1, counts=counts)
        return Layer(layer=name, kind="x", weights=9, zeros=1, precision="int8", size_bytes=9, histogram=histogram)

    layers = [layer("spikes", [9, *[0] * 39, 9]), layer("spread", list(range(41)))]
    drawn_charts = list(histograms(layers, layers))
    assert [chart.title.partition(":")[0] for chart in drawn_charts] == ["spread"]
    assert drawn_charts[0].figure.legends
    assert drawn_charts[0].figure.axes[0].get_legend() is None


def test_points_that_are_close_share_a_number_and_the_legend_names_them():
    sizes, accuracies = (1000, 100, 99, 98), (0.9, 0.8, 0.8, 0.95)
    rows = tuple(
        Row(f"s{place}", {"accuracy": accuracy, "size_bytes": size})
        for place, (size, accuracy) in enumerate(zip(sizes, accuracies, strict=True))
    )
    [chart] = charts(Report(name="r", seed=0, rows=rows, environment={})).size
    assert [text.get_text() for text in chart.figure.axes[0].texts] == ["0", "1, 2", "3"]
    names = [text.get_text() for legend in chart.figure.legends for text in legend.get_texts()]
    assert names == ["0 s0", "1 s1", "2 s2", "3 s3"]


def test_learning_curves_have_what_was_validated_after_each_epoch():
    values = {"training_loss": [2.0, 1.0], "validation_loss": [3.0, 2.5], "validation_accuracy": [None, 0.5]}
    [chart] = charts(Report(name="r", seed=0, rows=(Row("baseline", values),), environment={})).curves
    losses, accuracies = chart.figure.axes
    assert [list(line.get_ydata()) for line in losses.lines] == [[2.0, 1.0], [3.0, 2.5]]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in accuracies.lines] == [([2.0], [0.5])]
    assert accuracies.get_ylabel() == "accuracy"
    names = [text.get_text() for legend in chart.figure.legends for text in legend.get_texts()]
    assert names == ["training loss", "validation loss", "validation accuracy"]
    assert chart.text.endswith("The validation loss goes from 3 to 2.5. The validation accuracy goes from 0.5 to 0.5.")
    assert "The validation loss" in inline_svg(chart)


def test_the_color_of_a_latency_agrees_with_the_words_beside_it():
    def row(stage, time_ms, ratio):
        interval = {"1": [ratio - 0.001, ratio + 0.001]}
        values = {"latency_ms": {"1": time_ms}, "latency_ratio": {"1": ratio}, "latency_ratio_interval": interval}
        return Row(stage, values)

    # On a machine that was busier later, the time is longer although the ratio says that the model is faster.
    report = Report(name="r", seed=0, rows=(row("baseline", 1.0, 1.0), row("a", 1.1, 0.5)), environment={})
    [chart] = charts(report).stages
    assert matplotlib.colors.to_hex(chart.figure.axes[0].patches[1].get_facecolor()) == GOOD
    assert chart.table[1]["change by the stage"] == "2.00× as fast"
