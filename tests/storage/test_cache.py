"""Results that runs keep for each other: what is reused, what is not, and what happens to damaged ones."""

import logging
import signal
import threading

import pytest
import survival
from click.testing import CliRunner
from filelock import FileLock

import toolkit
from toolkit.cli import main
from toolkit.interruption import Interrupted, Stop
from toolkit.recipe.read import parse_recipe
from toolkit.report.reader import read_report
from toolkit.storage.cache import entries, stages_folder
from toolkit.storage.lock import locked

pytestmark = pytest.mark.cache
TOY = survival.TOY.replace("toolkit.testing:toy_mlp", "nets.py:net")
NETS = "from toolkit.testing import toy_mlp\n\ndef net():\n    return toy_mlp(16)\n"
TIMES = (*survival.TIMES, "reused")


@pytest.fixture
def run(tmp_path):
    runs = []

    def run(*changes, nets=NETS, **options):
        text = TOY
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        (tmp_path / "nets.py").write_text(nets)
        runs.append(tmp_path / f"run{len(runs)}")
        return toolkit.run(parse_recipe(text, "toy.toml", tmp_path), output=runs[-1], **options)

    return run


def reused(report):
    return [bool(row.get("reused")) for row in report.rows]


def numbers(report):
    return [
        {key: value for key, value in row.model_dump(mode="json").items() if not key.startswith(TIMES)}
        for row in report.rows
    ]


def test_a_network_with_a_lambda_is_reused_and_opened(run, tmp_path):
    nets = NETS.replace(
        "return toy_mlp(16)", "model = toy_mlp(16)\n    model.halved = lambda x: x / 2\n    return model"
    )
    first, second = run(nets=nets), run(nets=nets)
    assert reused(second) == [True] * 3
    assert numbers(first) == numbers(second)
    model = toolkit.load(tmp_path / "run1" / "stages" / "0-baseline", allow=[f"{tmp_path}/nets.py:net"])
    assert model.halved(4) == 2


@pytest.mark.smoke
def test_everything_is_reused_and_is_the_same(run, tmp_path):
    first, second = run(), run()
    assert reused(first) == [False] * 3
    assert reused(second) == [True] * 3
    assert numbers(first) == numbers(second)
    for name in ("model.safetensors", "model.skeleton", "details.json"):
        assert (tmp_path / "run0" / name).read_bytes() == (tmp_path / "run1" / name).read_bytes()
    assert "pruning ↺" in str(second)
    assert "computed by an earlier run" in str(second)
    assert "↺" not in str(first)


def test_packed_models_come_of_the_same_results_and_have_their_own_sizes(run, tmp_path):
    change = ('name = "toy"', 'name = "toy"\noutput = { packed = true }')
    first, packed = run(), [run(change), run(change)]
    for number, report in enumerate(packed, start=1):
        assert reused(report) == [True] * 3
        assert report.rows[0]["size_bytes"] == first.rows[0]["size_bytes"]
        for folder, row in zip(sorted((tmp_path / f"run{number}/stages").iterdir())[1:], report.rows[1:], strict=True):
            assert row["size_bytes"] == (folder / "model.packed").stat().st_size
        assert (tmp_path / f"run{number}/model.packed").read_bytes() == (folder / "model.packed").read_bytes()
    assert packed[0].rows[2]["size_bytes"] < first.rows[2]["size_bytes"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('arithmetic = "int8"', 'arithmetic = "int8", exclude = ["3"]'), [True, True, False]),
        (("sparsity = 0.5", "sparsity = 0.6"), [True, False, False]),
        (("lr = 1e-2", "lr = 2e-2"), [False, False, False]),
        pytest.param(("batch_size = 64", "batch_size = 32"), [False, False, False], marks=pytest.mark.slow),
        pytest.param(('name = "toy"', 'name = "toy"\nseed = 1'), [False, False, False], marks=pytest.mark.slow),
        pytest.param(('name = "toy"', 'name = "other"'), [True, True, True], marks=pytest.mark.slow),
        (('technique = "pruning"', 'technique = "pruning"\nname = "sparse"'), [True, True, True]),
        pytest.param(
            ('source = "toolkit.testing:toy_data"', 'source = "toolkit.testing:toy_data"\nargs = { noise = 0.7 }'),
            [False] * 3,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_determines_a_result_and_nothing_else_decides(run, change, expected):
    run()
    again = run(change)
    assert reused(again) == expected
    assert numbers(again) == numbers(run(change, cache=False))


def test_other_source_text_is_another_model(run):
    run()
    assert reused(run(nets=NETS + "# changed\n")) == [False] * 3


def test_other_measuring_is_done_again_on_the_same_models(run):
    run()
    again = run(("budget = 0.01", "budget = 0.01\nbatch_sizes = [2]"))
    assert reused(again) == [True] * 3
    assert set(again.rows[1]["latency_ms"]) == {"2"}
    assert again.rows[1]["pruning.sparsity"] == 0.5


def test_a_damaged_entry_is_computed_again_and_replaced(run, caplog):
    first = run()
    for entry in entries(stages_folder()):
        content = bytearray(entry.path.read_bytes())
        content[-50] ^= 1
        entry.path.write_bytes(content)
    again = run()
    assert reused(again) == [False] * 3
    assert numbers(again) == numbers(first)
    assert "is corrupted" in caplog.text
    assert reused(run()) == [True] * 3


@pytest.mark.slow
def test_without_the_cache_nothing_is_taken_or_kept(run):
    run(cache=False)
    assert not list(entries(stages_folder()))
    run()
    assert reused(run(cache=False)) == [False] * 3


def test_a_cache_that_cannot_be_written_stops_nobody(run, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "file"))
    assert reused(run()) == [False] * 3


def test_two_runs_at_once_compute_once(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    recipe = parse_recipe(TOY, "toy.toml", tmp_path)
    runs = [survival.start(recipe, tmp_path / name) for name in ("a", "b")]
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0], [survival.said(tmp_path / name).read_text() for name in "ab"]
    reports = [read_report(tmp_path / name) for name in ("a", "b")]
    assert sorted(reused(report)[0] for report in reports) == [False, True]
    assert numbers(reports[0]) == numbers(reports[1])


class Releasing(logging.Handler):
    """Releases locks a moment after a run has reported that it waits for one."""

    def __init__(self, locks):
        super().__init__()
        self.locks, self.messages = locks, []

    def emit(self, record):
        if "waiting" in record.getMessage():
            self.messages.append(record.getMessage())
            threading.Timer(1.0, lambda: [lock.release() for lock in self.locks]).start()  # several polls later


@pytest.mark.slow
def test_a_run_that_waits_reports_it_once(run, tmp_path):
    run()
    for entry in list(entries(stages_folder())):
        entry.path.unlink()
    locks = [FileLock(path, thread_local=False) for path in (stages_folder() / "locks").glob("*.lock")]
    for lock in locks:
        lock.acquire()
    handler = Releasing(locks)
    logging.getLogger("toolkit").addHandler(handler)
    try:
        run()
    finally:
        logging.getLogger("toolkit").removeHandler(handler)
    assert handler.messages == ["toy: baseline: waiting for another run that computes the same stage"]
    assert handler.messages[0] in (tmp_path / "run1" / "log.txt").read_text()


def test_a_run_that_waits_can_be_stopped(tmp_path):
    """The first signal is enough, also where another run computes what this one needs."""
    path = tmp_path / "lock"
    stop = Stop()
    stop.handle(signal.SIGINT, None)
    with locked(path), pytest.raises(Interrupted), locked(path, stop.check):
        pass


def test_the_command_lists_and_trims(run):
    assert "is empty" in CliRunner().invoke(main, ["cache"]).output
    run()
    listed = CliRunner().invoke(main, ["cache"]).output
    assert all(name in listed for name in ("toy: baseline", "toy: pruning", "toy: quantization", "3 results"))
    largest = max(entry.size_bytes for entry in entries(stages_folder()))
    CliRunner().invoke(main, ["cache", "prune", "--max-size", str(largest)])
    assert sum(entry.size_bytes for entry in entries(stages_folder())) <= largest
    CliRunner().invoke(main, ["cache", "prune", "--max-size", "0"])
    assert not list(entries(stages_folder()))
    refused = CliRunner().invoke(main, ["cache", "prune", "--max-size", "much"])
    assert refused.exit_code == 2
    assert "must be a size, found 'much'; pass e.g. 500MB or 5GB" in refused.output


@pytest.mark.slow
def test_an_interrupted_run_takes_its_rows_as_its_own(tmp_path):
    from test_survival import interrupted_at

    recipe = survival.make_recipe(tmp_path)
    interrupted_at(recipe, tmp_path / "run", stage=2, step=5)
    report = toolkit.run(recipe, output=tmp_path / "run")
    assert reused(report) == [False] * 4
