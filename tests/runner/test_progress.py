"""What a run says while it works where there is no terminal, and what its log keeps."""

from types import SimpleNamespace

import pytest

from toolkit.runner.progress import MAX_SILENCE_S, ProgressLines

STAGE = SimpleNamespace(number=1, name="pruning", finetune=SimpleNamespace(epochs=2))


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def lines(capsys):
    clock = Clock()
    shown = ProgressLines(clock)
    shown.on_start(recipe=SimpleNamespace(stages=[STAGE]))
    shown.on_stage(stage=STAGE)

    def told(after_s, call):
        clock.now_s += after_s
        call(shown)
        return capsys.readouterr().err.splitlines()

    capsys.readouterr()
    return told


def test_a_line_every_half_minute_has_epoch_loss_and_time_left(lines):
    assert lines(0, lambda shown: shown.on_step(stage=STAGE, step=1, steps=8, loss=2.0)) == []
    assert lines(MAX_SILENCE_S - 1, lambda shown: shown.on_step(stage=STAGE, step=4, steps=8, loss=1.0)) == []
    assert lines(1, lambda shown: shown.on_step(stage=STAGE, step=5, steps=8, loss=0.5)) == [
        "[1/1] pruning: epoch 2 of 2, loss 0.5000, about 22 s of training left"
    ]
    assert lines(1, lambda shown: shown.on_step(stage=STAGE, step=6, steps=8, loss=0.5)) == []


def test_long_measurements_are_told(lines):
    measuring = {"stage": STAGE, "activity": "measuring", "done": 2.0, "total": 8.0}
    assert lines(1, lambda shown: shown.on_progress(**measuring)) == []
    assert lines(MAX_SILENCE_S, lambda shown: shown.on_progress(**measuring)) == ["[1/1] pruning: measuring, 25% done"]


def test_stages_begin_and_end_with_a_line_and_the_log_has_one_for_each_epoch(recipe_run, capsys):
    outcome = recipe_run('[[stages]]\ntechnique = "pruning"\nfinetune = { epochs = 3 }')
    assert outcome.error == ""
    log = (outcome.directory / "log.txt").read_text()
    assert [f"stage 1 (pruning): epoch {epoch} of 3, training loss " in log for epoch in (1, 2, 3)] == [True] * 3
    assert log.count("training loss") == 2 + 3  # the baseline's, too
