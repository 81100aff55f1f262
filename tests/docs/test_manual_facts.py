"""What the page "What is not obvious" says of int8 and of files is so."""

import re
from pathlib import Path

import pytest

import toolkit
from toolkit.recipe.read import parse_recipe

pytestmark = pytest.mark.page  # one of the files of a run directory
PAGE = (Path(__file__).parents[2] / "docs" / "not-obvious.md").read_text(encoding="utf-8")
NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(16, 32), nn.LSTM(32, 32, batch_first=True)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.conv, self.norm, self.linear = nn.Conv1d(32, 32, 3), nn.BatchNorm1d(32), nn.Linear(32, 3)

    def forward(self, words):
        hidden, _ = self.lstm(self.embedding(words))
        hidden, _ = self.attention(hidden, hidden, hidden)
        return self.linear(self.norm(self.conv(hidden.transpose(1, 2))).mean(2))


def load():
    words = torch.randint(16, (80, 8), generator=torch.Generator().manual_seed(0))
    return (words[20:], words[20:, 0] % 3), (words[:20], words[:20, 0] % 3)
"""
RECIPE = """
[model]
source = "net.py:Net"
training = {}
[data]
source = "net.py:load"
[measure]
budget = 0.1
[[stages]]
technique = "pruning"
[[stages]]
technique = "quantization"
params = { arithmetic = "int8", max_drop = 100.0, max_error = 100.0 }
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A run of a network that has a layer of each kind."""
    folder = tmp_path_factory.mktemp("facts")
    (folder / "net.py").write_text(NET)
    return toolkit.run(parse_recipe(RECIPE, "facts.toml", folder), output=folder / "run", cache=False)


def claims():
    """By kind of layer what the table says it computes in."""
    table = PAGE.partition("| layer |")[2].partition("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {kind: computes for layers, _, computes in lines for kind in re.findall(r"`(\w+)`", layers)}


def test_layers_compute_in_what_the_table_says(report):
    rows = report.final["quantization.arithmetic"].table
    assert {row["dtype"] for row in rows} == {"int8"}
    assert {row["kind"] for row in rows} == {"Embedding", "LSTM", "MultiheadAttention", "Conv1d", "Linear"}
    for row in rows:
        claim = claims()[row["kind"]]
        assert ("int8 products" in claim or "the same choice" in claim) == (row["arithmetic"] == "int8"), row
    stays = {row["layer"]: row["reason"] for row in report.final["quantization.float"].table}
    assert set(stays) == {"norm"}


def test_every_file_of_a_run_directory_is_in_the_table(report):
    table = PAGE.partition("| in the run directory |")[2].partition("\n\n")[0]
    for path in report.directory.iterdir():
        assert f"`{path.name}" in table, path.name
    assert (report.directory / "stages" / "1-pruning").is_dir()


def test_pruning_alone_makes_no_file_smaller_and_quantization_does(report):
    sizes = [row["size_bytes"] for row in report.rows]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    assert sizes[2] < 0.6 * sizes[1]


def test_zeros_stay_zeros_in_int8(report):
    assert report.final["sparsity"] >= report.row("pruning")["sparsity"] > 0.4
