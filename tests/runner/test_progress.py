"""What a run says while it works where there is no terminal, and what its log keeps."""

import re
from types import SimpleNamespace

import pytest

from toolkit.runner import first_batch
from toolkit.runner.progress import MAX_SILENCE_S, ProgressBars, ProgressLines, rehearsal_told

STAGE = SimpleNamespace(number=1, name="pruning", finetune=SimpleNamespace(epochs=2))


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def lines(capsys):
    clock = Clock()
    shown = ProgressLines(clock)
    shown.on_start(recipe=SimpleNamespace(stages=[STAGE], exports=[]))
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


def test_the_latest_validation_is_part_of_the_line_until_the_next_stage(lines):
    def steps(shown, validation):
        shown.on_epoch(validation=validation)
        shown.on_step(stage=STAGE, step=5, steps=8, loss=0.5)

    told = lines(MAX_SILENCE_S, lambda shown: steps(shown, {"accuracy": 0.75, "loss": 0.6}))
    assert told[0].startswith("[1/1] pruning: epoch 2 of 2, loss 0.5000, validation accuracy 75.00 %, about ")
    assert "validation accuracy 75.00 %" in lines(MAX_SILENCE_S, lambda shown: steps(shown, None))[0]
    lines(0, lambda shown: shown.on_stage(stage=STAGE))
    assert "validation" not in lines(MAX_SILENCE_S, lambda shown: steps(shown, None))[0]


def test_a_bar_is_there_from_the_beginning_of_a_stage_and_shows_the_validation(capsys):
    bars = ProgressBars()
    bars.on_start(recipe=SimpleNamespace(stages=[STAGE], exports=[]))
    bars.on_stage(stage=STAGE)
    assert "[1/1] pruning, preparing" in capsys.readouterr().err
    bars.on_step(stage=STAGE, step=1, steps=8, loss=2.0)
    bars.on_epoch(validation={"accuracy": 0.75})
    bars.on_step(stage=STAGE, step=8, steps=8, loss=0.5)
    assert bars._bar.postfix == "loss 0.5000, validation accuracy 75.00 %"
    bars.close()


def test_the_rehearsal_says_what_it_does(recipe_run, capsys, monkeypatch):
    monkeypatch.setattr(first_batch, "THRESHOLD_S", 0.0)
    with rehearsal_told():
        assert recipe_run('[[stages]]\ntechnique = "pruning"').error == ""
    assert capsys.readouterr().err.splitlines()[:3] == [
        "trying stage 0 (baseline) on one batch",
        "trying stage 1 (pruning) on one batch",
        "measuring every row on one batch",
    ]
    assert recipe_run('[[stages]]\ntechnique = "pruning"', output="other").error == ""
    assert "trying" not in capsys.readouterr().err


def test_long_measurements_are_told(lines):
    measuring = {"stage": STAGE, "activity": "measuring", "done": 2.0, "total": 8.0}
    assert lines(1, lambda shown: shown.on_progress(**measuring)) == []
    assert lines(MAX_SILENCE_S, lambda shown: shown.on_progress(**measuring)) == ["[1/1] pruning: measuring, 25% done"]


def test_stages_begin_and_end_with_a_line_and_the_log_has_one_for_each_epoch(recipe_run, capsys):
    outcome = recipe_run('[[stages]]\ntechnique = "pruning"\nfinetune = { epochs = 3 }')
    assert outcome.error == ""
    log = (outcome.directory / "log.txt").read_text()
    for epoch in (1, 2, 3):
        (line,) = re.findall(rf"stage 1 \(pruning\): epoch {epoch} of 3, training loss [\d.]+(.*)$", log, re.MULTILINE)
        left = ", about .* of training left" if epoch < 3 else ""
        assert re.fullmatch(rf"(, validation accuracy [\d.]+ %)?{left}", line)
    assert "validation accuracy" in line
    assert log.count("training loss") == 2 + 3  # the baseline's, too
