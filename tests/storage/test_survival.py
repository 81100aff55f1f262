"""A run that is killed, interrupted or fails to write goes on, and ends as if nothing had happened."""

import contextlib
import errno
import io
import json
import os
import random
import resource
import shutil
import signal
import time
from types import SimpleNamespace

import psutil
import pytest
from survival import TOY, assert_same, make_recipe, outcome, said, start

import toolkit
from toolkit.errors import InputError, ToolkitError
from toolkit.hooks.loading import from_module
from toolkit.interruption import Interrupted, Stop
from toolkit.params import Params
from toolkit.recipe.read import PluginUse
from toolkit.storage import files
from toolkit.storage.record import DamagedError, read_record
from toolkit.storage.run_directory import MARK, RunDirectory


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the recipe ends with, and how much of the processor's time it takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = make_recipe(folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = start(recipe, folder / "run", cache=False)
    process.join()
    assert process.exitcode == 0, said(folder / "run").read_text()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return recipe, outcome(folder / "run"), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def let_compute(process, seconds: float) -> None:
    """Wait until a process has ended or computed for so long, which on a busy machine is later."""
    computed = psutil.Process(process.pid).cpu_times
    while process.exitcode is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = computed()
            if times.user + times.system >= seconds:
                return
        process.join(0.01)


def killed_until_done(recipe, output, computing_s, chance) -> int:
    """Run, kill at a random moment, and so on until the run ends; how often it was killed."""
    kills = 0
    while True:
        process = start(recipe, output, cache=False)
        let_compute(process, chance.uniform(0.0, computing_s))
        if process.exitcode is not None:
            # Killed when it was finished already, the run before this one is not repeated.
            finished = kills and json.loads((output / ".toolkit-run").read_text())["state"] == "finished"
            assert process.exitcode == 0 or (process.exitcode == 1 and finished)
            return kills
        process.kill()
        process.join()
        kills += 1


def survive(undisturbed, tmp_path, kills: int) -> None:
    recipe, expected, computing_s = undisturbed
    chance = random.Random(kills)
    done = runs = 0
    while done < kills:
        runs += 1
        done += killed_until_done(recipe, tmp_path / f"run{runs}", computing_s, chance)
        assert_same(outcome(tmp_path / f"run{runs}"), expected)
    print(f"killed {done} times in {runs} runs")


@pytest.mark.slow
def test_killed_runs_end_as_if_nothing_had_been(undisturbed, tmp_path):
    survive(undisturbed, tmp_path, kills=1)


@pytest.mark.slow
def test_forty_kills_leave_no_trace(undisturbed, tmp_path):
    survive(undisturbed, tmp_path, kills=40)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_stops_with_a_checkpoint_and_the_same_command_goes_on(undisturbed, tmp_path, number):
    recipe, expected, _ = undisturbed
    process = start(recipe, tmp_path / "run", cache=False)
    while process.is_alive() and not list((tmp_path / "run" / "checkpoint").glob("*.record")):
        time.sleep(0.02)
    os.kill(process.pid or 0, number)
    process.join()
    assert process.exitcode == 1  # of a process that raises; the command line has codes of its own
    assert list((tmp_path / "run" / "checkpoint").glob("*.record"))
    again = start(recipe, tmp_path / "run", cache=False)
    again.join()
    assert_same(outcome(tmp_path / "run"), expected)


def test_steps_go_on_where_they_were_left(undisturbed, stopped, tmp_path):
    """The training under way is not repeated: a stop at step 20 leaves a checkpoint of 20 steps."""
    recipe, expected, _ = undisturbed
    shutil.copytree(stopped, tmp_path / "run")
    _, content = newest(tmp_path / "run")
    assert content["done"] == 20
    toolkit.run(recipe, output=tmp_path / "run", cache=False)
    assert_same(outcome(tmp_path / "run"), expected)


VALIDATED = TOY.replace("epochs = 1", "epochs = 3") + "[data.args]\nsamples = 256\n"
SERIES = ("validation_accuracy", "validation_loss", "training_loss")


def series(folder):
    rows = json.loads((folder / "report.json").read_text())["rows"]
    return [{key: row[key] for key in SERIES if key in row} for row in rows]


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    """A run that validates after every epoch, as all runs of tests."""
    folder = tmp_path_factory.mktemp("validated")
    toolkit.run(make_recipe(folder, VALIDATED), output=folder / "run", cache=False)
    return folder / "run"


@pytest.mark.parametrize(
    ("stage", "step"),
    [(0, 3), (1, 4), (1, 12), *(pytest.param(*place, marks=pytest.mark.slow) for place in [(0, 4), (1, 2), (1, 9)])],
)
def test_what_was_validated_before_an_interruption_is_kept(validated, tmp_path, stage, step):
    recipe = make_recipe(tmp_path, VALIDATED)
    interrupted_at(recipe, tmp_path / "run", stage, step)
    told = []
    watch = observer(on_epoch=lambda stage, epoch, validation: told.append((stage.number, epoch, validation)))
    toolkit.run(recipe, output=tmp_path / "run", cache=False, observers=[watch])
    assert series(tmp_path / "run") == series(validated)
    assert [len(row.get("validation_loss", ())) for row in series(validated)] == [2, 3, 0]
    assert_same(outcome(tmp_path / "run"), outcome(validated))
    assert [(number, epoch) for number, epoch, _ in told] == [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]
    losses = [metrics["loss"] for _, _, metrics in told]
    assert losses == [loss for row in series(validated) for loss in row.get("validation_loss", ())]


def test_a_run_that_validates_has_the_bits_of_one_that_does_not(validated, tmp_path, monkeypatch):
    def fails(model, data):
        raise ValueError("no")

    monkeypatch.setattr("toolkit.runner.epochs.validation_metrics", fails)
    toolkit.run(make_recipe(tmp_path, VALIDATED), output=tmp_path / "run", cache=False)
    assert outcome(tmp_path / "run")["models"] == outcome(validated)["models"]
    assert "validation_loss" not in series(tmp_path / "run")[0]
    assert series(tmp_path / "run")[0]["training_loss"] == series(validated)[0]["training_loss"]


def newest(run):
    records = [read_record(path) for path in (run / "checkpoint").glob("training-*.record")]
    return max(records, key=lambda record: record[1]["done"])


def observer(**hooks):
    """A run-wide plugin of these functions."""
    marked = SimpleNamespace(**{name: toolkit.hookimpl(function) for name, function in hooks.items()})
    return PluginUse(from_module(marked, "test", "tests", "observer"), Params())


def interrupted_at(recipe, output, stage, step):
    """Ask for a stop at one step, as a signal would; the steps that were told."""
    seen = []

    def on_step(stage, step):
        seen.append((stage.number, step))
        if seen[-1] == wanted:
            os.kill(os.getpid(), signal.SIGINT)

    wanted = (stage, step)
    with pytest.raises(KeyboardInterrupt):
        toolkit.run(recipe, output=output, cache=False, observers=[observer(on_step=on_step)])
    return seen


@pytest.fixture(scope="module")
def stopped(undisturbed, tmp_path_factory):
    """The directory of a run that was interrupted in its second training; tests damage copies of it."""
    recipe, *_ = undisturbed
    run = tmp_path_factory.mktemp("stopped") / "run"
    seen = interrupted_at(recipe, run, stage=2, step=20)
    assert seen[-1] == (2, 20)
    return run


class TestDamage:
    def test_the_newest_intact_state_is_used(self, undisturbed, stopped, tmp_path):
        recipe, expected, _ = undisturbed
        shutil.copytree(stopped, tmp_path / "run")
        for path in sorted((tmp_path / "run" / "checkpoint").iterdir())[-1:]:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
            with pytest.raises(DamagedError, match="checksum"):
                read_record(path)
        toolkit.run(recipe, output=tmp_path / "run", cache=False)
        assert_same(outcome(tmp_path / "run"), expected)

    @pytest.mark.parametrize(
        "damage",
        ["truncated", *(pytest.param(name, marks=pytest.mark.slow) for name in ("missing", "empty", "foreign"))],
    )
    def test_a_damaged_row_is_computed_again(self, undisturbed, stopped, tmp_path, damage):
        recipe, expected, _ = undisturbed
        shutil.copytree(stopped, tmp_path / "run")
        path = tmp_path / "run" / "checkpoint" / "row-1.record"
        content = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes({"truncated": content[:-100], "empty": b"", "foreign": b"something else" * 9}[damage])
        toolkit.run(recipe, output=tmp_path / "run", cache=False)
        assert_same(outcome(tmp_path / "run"), expected)


class TestDirectory:
    def test_another_recipe_is_refused_with_what_differs(self, tmp_path):
        interrupted_at(make_recipe(tmp_path, TOY), tmp_path / "run", stage=1, step=2)
        other = make_recipe(tmp_path / "other", TOY.replace("sparsity = 0.5", "sparsity = 0.8"))
        with pytest.raises(InputError, match=r"stages\.1\.params\.sparsity was 0\.5, is now 0\.8") as caught:
            toolkit.run(other, output=tmp_path / "run", cache=False)
        assert "\n" not in str(caught.value)
        toolkit.run(other, output=tmp_path / "run", cache=False, overwrite=True)

    def test_two_runs_do_not_share_a_directory(self, tmp_path):
        recipe = make_recipe(tmp_path, TOY)
        with (
            RunDirectory.acquire(tmp_path / "run", {}),
            pytest.raises(InputError, match=rf"in use by process {os.getpid()} on .* since "),
        ):
            toolkit.run(recipe, output=tmp_path / "run", cache=False)
        assert len(toolkit.run(recipe, output=tmp_path / "run", cache=False, overwrite=True).rows) == 3

    def test_an_export_is_the_process_that_uses_a_finished_run(self, tmp_path):
        with RunDirectory.acquire(tmp_path, {"seed": 1}) as run:
            run.finish()
        mark = tmp_path / MARK
        finished = json.loads(mark.read_text())
        mark.write_text(json.dumps({**finished, "holder": {"process": 1, "host": "other", "since": "long ago"}}))
        with RunDirectory.at_rest(tmp_path), pytest.raises(InputError, match=f"in use by process {os.getpid()} on "):
            RunDirectory.at_rest(tmp_path).__enter__()
        assert {**json.loads(mark.read_text()), "holder": finished["holder"]} == finished

    @pytest.mark.slow
    def test_the_lock_dies_with_its_process(self, undisturbed, tmp_path):
        recipe, expected, _ = undisturbed
        process = start(recipe, tmp_path / "run", cache=False)
        while not (tmp_path / "run" / "log.txt").is_file():
            time.sleep(0.01)
        process.kill()
        process.join()
        toolkit.run(recipe, output=tmp_path / "run", cache=False)
        assert_same(outcome(tmp_path / "run"), expected)

    def test_a_directory_that_vanishes_is_one_sentence(self, tmp_path):
        recipe = make_recipe(tmp_path, TOY)
        vanish = observer(on_step=lambda: shutil.rmtree(tmp_path / "run", ignore_errors=True))
        with pytest.raises(ToolkitError, match=r"the run directory .*run no longer exists") as caught:
            toolkit.run(recipe, output=tmp_path / "run", cache=False, observers=[vanish])
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_a_run_that_is_killed_at_its_very_end_is_finished(tmp_path, monkeypatch):
    recipe = make_recipe(tmp_path, TOY)
    toolkit.run(recipe, output=tmp_path / "whole", cache=False)
    with monkeypatch.context() as patch:
        patch.setattr(
            "toolkit.storage.run_directory.shutil.rmtree", lambda *_, **__: None
        )  # as if it had been killed before
        toolkit.run(recipe, output=tmp_path / "run", cache=False)
    assert (tmp_path / "run" / "checkpoint").is_dir()
    with pytest.raises(InputError, match="exists"):
        toolkit.run(recipe, output=tmp_path / "run", cache=False)
    assert_same(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))


@pytest.mark.smoke
def test_the_second_signal_ends_a_run_at_once():
    stop = Stop()
    stop.handle(signal.SIGINT, None)
    with pytest.raises(Interrupted) as caught:
        stop.handle(signal.SIGTERM, None)
    assert caught.value.exit_code == 143


class Faulty:
    """Counts what writes a file, and fails once: at the operation with this number, in this way."""

    def __init__(self, monkeypatch, number: int = -1, error: int = errno.ENOSPC) -> None:
        self.number, self.error, self.count = number, error, 0
        monkeypatch.setattr(files, "open", self.open, raising=False)
        for name in ("fsync", "replace"):
            monkeypatch.setattr(f"toolkit.storage.files.os.{name}", self.failing(getattr(os, name)))

    def open(self, path, mode):
        self.check()
        test = self

        class File(io.FileIO):
            def write(self, content):
                if test.is_now():
                    super().write(bytes(content)[: len(content) // 2])
                    raise OSError(test.error, os.strerror(test.error))
                return super().write(content)

        return File(path, mode)

    def failing(self, real):
        def operation(*arguments):
            self.check()
            return real(*arguments)

        return operation

    def is_now(self) -> bool:
        self.count += 1
        return self.count - 1 == self.number

    def check(self) -> None:
        if self.is_now():
            raise OSError(self.error, os.strerror(self.error))


def operations(tmp_path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        faulty = Faulty(patch)
        toolkit.run(make_recipe(tmp_path, TOY), output=tmp_path / "counted", cache=False)
        return faulty.count


def fail_and_go_on(tmp_path, number: int, error: int, expected) -> None:
    recipe, run = make_recipe(tmp_path, TOY), tmp_path / f"run{number}-{error}"
    with pytest.MonkeyPatch.context() as patch:
        Faulty(patch, number, error)
        with pytest.raises(ToolkitError, match=os.strerror(error)) as caught:
            toolkit.run(recipe, output=run, cache=False)
    assert "\n" not in str(caught.value)
    assert not list(run.rglob("*.part"))
    for record in run.rglob("*.record"):
        read_record(record)  # the old state or the new one, never a third
    toolkit.run(recipe, output=run, cache=False)
    assert_same(outcome(run), expected)


def faults(tmp_path, every: int) -> None:
    toolkit.run(make_recipe(tmp_path, TOY), output=tmp_path / "whole", cache=False)
    expected = outcome(tmp_path / "whole")
    count = operations(tmp_path)
    assert count > 60
    for place, number in enumerate(range(0, count - 12, every)):  # the page at the end may fail: a run is done by then
        fail_and_go_on(tmp_path, number, (errno.ENOSPC, errno.EIO)[place % 2], expected)


def test_a_write_that_fails_leaves_the_old_or_the_new_state(tmp_path):
    faults(tmp_path, every=31)


@pytest.mark.slow
def test_every_write_may_fail(tmp_path):
    faults(tmp_path, every=1)
