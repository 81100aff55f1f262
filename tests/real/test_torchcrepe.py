"""Tones are heard as torchcrepe itself hears them, and its small network learns from its large one."""

import pytest
import torch
from comparison import HERE
from crepe_pitch import RATE_HZ, WINDOW, Pitch, crepe, pitch_cents, tones, tones_in_noise
from installed import missing, why_skipped

import toolkit
from toolkit.metrics import answers

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(missing("torchcrepe")), reason=why_skipped("torchcrepe")),
]


def test_a_pure_tone_is_heard_as_torchcrepe_hears_it():
    import torchcrepe

    hertz = 220.0
    sound = torch.sin(2 * torch.pi * hertz * torch.arange(WINDOW) / RATE_HZ)[None]
    frame = next(torchcrepe.preprocess(sound, RATE_HZ, pad=False))
    with torch.inference_mode():
        outputs = crepe("tiny").eval()(frame)
        theirs = torchcrepe.infer(frame, "tiny")
    torch.testing.assert_close(outputs, theirs)
    assert pitch_cents(outputs).item() == pytest.approx(1200 * torch.tensor(hertz / 10).log2().item(), abs=20)


def test_frames_are_standardized_as_torchcrepe_does_it_and_do_not_change():
    import torchcrepe

    frames, cents = tones_in_noise(8, 0, -20.0, 0.0)
    torch.testing.assert_close(next(torchcrepe.preprocess(frames[3:4].clone(), RATE_HZ, pad=False)), frames[3:4])
    again, _ = tones_in_noise(8, 0, -20.0, 0.0)
    other, _ = tones_in_noise(8, 1, -20.0, 0.0)
    assert torch.equal(frames, again)
    assert not torch.equal(frames, other)
    assert cents.min() >= 1200 * torch.tensor(6.0).log2()


def test_logits_undo_the_sigmoid():
    wanted = torch.linspace(-8, 8, 360)[None]
    torch.testing.assert_close(Pitch().logits(wanted.sigmoid()), wanted, rtol=1e-3, atol=1e-3)


def test_the_small_one_learns_from_the_large_one(tmp_path):
    data = {"samples": 200, "train": 640, "quietest_db": 0.0, "loudest_db": 6.0}
    before = answers(crepe("tiny").eval(), tones(**data)).correct
    assert before is not None
    report = toolkit.run(HERE / "crepe_distillation.toml", {"data.args": data}, output=tmp_path / "run", cache=False)
    assert report.final["accuracy"] > before.double().mean().item() + 0.01
    assert report.final["size_bytes"] < 0.03 * report.baseline["size_bytes"]
