"""Pictures changed at random while training: by how much at most, of whom, and where a recipe turns it off."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toolkit
from toolkit.data.augmentation import affine, elastic, translation
from toolkit.errors import InputError, RecipeError
from toolkit.recipe.read import parse_recipe
from toolkit.runner.assembly import make_data
from toolkit.testing import toy_data
from toolkit.training import Training, TrainingSettings, fit

SIZE = 41
STILL: dict[str, Any] = {"degrees": 0.0, "scale": 0.0, "shear_degrees": 0.0, "shift": 0.0}
RECIPE = """
[model]
source = "toolkit.testing:toy_cnn"
training = {{ epochs = 1{training} }}
[data]
source = "{source}"
{data}
[[stages]]
technique = "pruning"
finetune = {{ epochs = 1 }}
"""


def blobs(count: int, right: float = 10.0, down: float = 0.0) -> Tensor:
    """Pictures (count, 1, SIZE, SIZE) of one round blob, so far from the middle."""
    place = torch.arange(SIZE) - SIZE // 2
    distance = (place[None, :] - right) ** 2 + (place[:, None] - down) ** 2
    return torch.exp(-distance / 4.0).expand(count, 1, SIZE, SIZE)


def middles(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """How far right and down of the middle the blob of each picture is."""
    place = (torch.arange(SIZE) - SIZE // 2).float()
    total = pictures.sum((1, 2, 3))
    return (pictures.sum((1, 2)) @ place) / total, (pictures.sum((1, 3)) @ place) / total


def test_nothing_asked_for_changes_nothing() -> None:
    pictures = torch.rand(3, 2, 7, 9)
    assert torch.allclose(affine(pictures, **STILL), pictures, atol=1e-5)
    assert torch.allclose(elastic(pictures, displacement=0.0, **STILL), pictures, atol=1e-5)
    assert torch.equal(translation(pictures, pixels=0), pictures)


def test_rotation_turns_about_the_middle_by_up_to_so_many_degrees() -> None:
    right, down = middles(affine(blobs(500), **{**STILL, "degrees": 30.0}))
    angles = torch.atan2(down, right).mul(180 / math.pi)
    assert torch.allclose((right**2 + down**2).sqrt(), torch.tensor(10.0), atol=0.1)
    assert angles.abs().max() < 30.5
    assert angles.max() > 28
    assert angles.min() < -28


def test_scaling_is_of_each_direction_and_by_up_to_so_much() -> None:
    right, down = middles(affine(blobs(500, 10, 8), **{**STILL, "scale": 0.25}))
    for moved, before in ((right, 10), (down, 8)):
        factors = moved / before
        assert factors.max() < 1.27
        assert factors.max() > 1.2
        assert factors.min() > 1 / 1.27
        assert factors.min() < 1 / 1.2
    assert torch.corrcoef(torch.stack([right, down]))[0, 1].abs() < 0.2


def test_shear_slants_what_is_off_the_middle_line() -> None:
    right, down = middles(affine(blobs(500, 0, 10), **{**STILL, "shear_degrees": 20.0}))
    assert torch.allclose(down, torch.tensor(10.0), atol=0.1)
    assert 9 * math.tan(math.radians(20)) < right.abs().max() < 10.3 * math.tan(math.radians(20))


def test_shifts_are_fractions_of_height_and_width() -> None:
    right, down = middles(affine(blobs(500, 0, 0), **{**STILL, "shift": 0.1}))
    for moved in (right, down):
        assert 0.95 * 0.1 * SIZE < moved.abs().max() < 1.02 * 0.1 * SIZE


def test_elastic_bends_smoothly_and_no_farther_than_its_points_move() -> None:
    bent = [middles(elastic(blobs(500, right, 0), 0.1, **STILL))[0] - right for right in (-12.0, 12.0)]
    for moved in bent:
        assert 0.5 * 0.1 * SIZE < moved.abs().max() < 1.3 * 0.1 * SIZE
    torch.manual_seed(0)
    left = middles(elastic(blobs(500, -12, 0), 0.1, **STILL))[0] + 12
    torch.manual_seed(0)
    near = middles(elastic(blobs(500, -11, 0), 0.1, **STILL))[0] + 11
    torch.manual_seed(0)
    far = middles(elastic(blobs(500, 12, 0), 0.1, **STILL))[0] - 12
    assert torch.corrcoef(torch.stack([left, near]))[0, 1] > 0.95
    assert torch.corrcoef(torch.stack([left, far]))[0, 1].abs() < 0.2


@pytest.mark.smoke
def test_translation_is_by_whole_pixels_in_all_directions() -> None:
    pictures = torch.rand(1, 3, 6, 8)
    wide = torch.nn.functional.pad(pictures, (2, 2, 2, 2), mode="replicate")
    possible = [wide[0, :, down : down + 6, right : right + 8] for down in range(5) for right in range(5)]
    moved = translation(pictures.expand(500, -1, -1, -1))
    found = {next(place for place, one in enumerate(possible) if torch.equal(one, picture)) for picture in moved}
    assert found == set(range(25))


def test_half_of_the_pictures_are_mirrored_and_no_two_pictures_mixed() -> None:
    pictures = torch.rand(400, 3, 4, 5)
    changed = translation(pictures, pixels=0, flip=True)
    mirrored = (changed == pictures.flip(3)).flatten(1).all(1)
    same = (changed == pictures).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert 150 < mirrored.sum() < 250
    assert torch.equal(translation(pictures, pixels=0), pictures)


@pytest.mark.parametrize("change", [affine, elastic, translation])
def test_every_picture_is_changed_by_an_amount_of_its_own(change: Any) -> None:
    pictures = torch.rand(1, 1, 20, 20).expand(8, -1, -1, -1)
    kept = pictures.clone()
    assert len(change(pictures).flatten(1).unique(dim=0)) > 4
    assert torch.equal(pictures, kept)


@pytest.mark.parametrize("inputs", [torch.zeros(4, 10), torch.zeros(4, 1, 5, 5, dtype=torch.uint8), (1, 2)])
@pytest.mark.parametrize("change", [affine, elastic, translation])
def test_what_is_no_picture_is_refused(change: Any, inputs: Any) -> None:
    with pytest.raises(InputError, match=r"requires float images \(N, C, H, W\), found "):
        change(inputs)


def recipe(data: str = "", training: str = "", source: str = "toolkit.testing:toy_data", folder: Path = Path()) -> Any:
    return parse_recipe(RECIPE.format(data=data, training=training, source=source), "r.toml", folder)


def test_a_recipe_names_it_with_its_arguments() -> None:
    data = make_data(recipe('augment = "affine"\naugment_args = { degrees = 90.0 }').data)
    assert data.augment is not None
    assert data.augmented
    torch.manual_seed(0)
    changed = data.augment(blobs(2))
    torch.manual_seed(0)
    assert torch.equal(changed, affine(blobs(2), degrees=90.0))


def test_a_function_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def louder(inputs, by=2.0):\n    return inputs * by\n")
    found = recipe('augment = "own.py:louder"\naugment_args = { by = 3.0 }', folder=tmp_path)
    augment = make_data(found.data).augment
    assert augment is not None
    assert torch.equal(augment(torch.ones(2)), torch.full((2,), 3.0))
    assert found.data.code == [f"{tmp_path.resolve()}/own.py:louder"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            'augment = "afine"',
            "data.augment: unknown augmentation 'afine'; did you mean 'affine'?",
        ),
        ('augment = "affine"\naugment_args = { degree = 3 }', "unknown argument 'degree'; did you mean 'degrees'?"),
        ("augment_args = { degrees = 3 }", "data.augment_args: `augment_args` is set without `augment`"),
        ('augment = "nowhere.py:change"', "does not exist"),
    ],
)
def test_mistakes_are_told_with_their_place(data: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(data)
    assert told in str(caught.value)


def test_inputs_that_are_no_pictures_are_found_before_anything_trains(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        RECIPE.format(data='augment = "affine"', training="", source="toolkit.testing:toy_data").replace(
            "toy_cnn", "toy_mlp"
        )
    )
    (tmp_path / "flat.py").write_text(
        "from dataclasses import replace\nfrom toolkit.testing import toy_data\n\n\n"
        "def flat():\n    data = toy_data()\n"
        "    return replace(data, train=(data.train[0].flatten(1), data.train[1]))\n"
    )
    path.write_text(path.read_text().replace("toolkit.testing:toy_data", "flat.py:flat"))
    with pytest.raises(RecipeError, match="augment = 'affine' requires float images"):
        toolkit.run(path, output=tmp_path / "run", cache=False)


class Spy(nn.Module):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen.append(inputs)
        return self.inner(inputs)


@pytest.mark.parametrize("augment", [True, False])
def test_a_training_may_do_without(augment: bool) -> None:
    data = replace(toy_data(64), augment=lambda inputs: inputs + 100)
    spy = Spy()
    spy(data.example(2).inputs)
    spy.seen.clear()
    fit(spy, Training(TrainingSettings(epochs=1, augment=augment), data.task.loss), data)
    assert bool(torch.cat(spy.seen).mean() > 50) is augment


@pytest.mark.parametrize("augment", ["true", "false"])
def test_in_a_stage_techniques_know_it_too(augment: str, recipe_run: Any) -> None:
    outcome = recipe_run(
        '[model]\nsource = "mlp"\nargs = { hidden = [8], inputs = 64 }\ntraining = { epochs = 1 }\n'
        '[data]\nsource = "toolkit.testing:toy_data"\naugment = "affine"\n'
        '[[stages]]\ntechnique = "distillation"\nparams = { alpha = 1.0 }\n'
        f"finetune = {{ epochs = 1, lr = 1e-9, augment = {augment} }}"
    )
    # The model is its own teacher: with alpha 1 the loss is zero wherever both are shown the same pictures.
    assert outcome.rows[1]["training_loss"][0] == pytest.approx(0, abs=1e-5)
