"""Files that earlier versions wrote open in this one, to the same outputs.

The files are written by `make.py` and never changed: what fails here is a file of somebody's that no longer opens.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import toolkit_codebook  # noqa: F401  # registers its layers
import toolkit_quantization  # noqa: F401
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

import toolkit
from toolkit import masks, model_files, stored_names
from toolkit.cli import main
from toolkit.interruption import Stop
from toolkit.report.reader import read_details, read_report
from toolkit.storage.checkpoints import TrainingCheckpoints
from toolkit.storage.record import read_field
from toolkit.storage.results import read_result
from toolkit.storage.run_directory import CHECKPOINT, RunDirectory
from toolkit.training import Training, fit

VERSIONS = sorted(path.parent for path in Path(__file__).parent.glob("*/SHA256SUMS"))
MODELS = [path for version in VERSIONS for path in sorted(version.iterdir()) if (path / "model.packed").is_file()]
KEY = "frozen"
NETS = f"{Path(__file__).with_name('frozen_nets.py')}:residual"  # which builds the network of `built`
# Of the layers that techniques put into models; toys are for tests.
NAMES = [name for name in stored_names._classes if name.partition(".")[0] in ("toolkit", "codebook", "quantization")]
NAMES = [name for name in NAMES if not name.endswith("Toy")]


@torch.no_grad()
def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the model returns, or the first of several things."""
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)  # a model that compiles itself runs as it is while it is watched
    answer = model(inputs)
    first: Tensor = answer if isinstance(answer, Tensor) else answer[0]
    for module in model.modules():
        module._forward_hooks.clear()
    return first


def example(folder: Path) -> tuple[dict[str, Tensor], float]:
    """The tensors of an example, and by how much outputs may differ."""
    with safetensors.safe_open(folder / "example.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, float(file.metadata()["tolerance"])  # noqa: SIM118


@pytest.mark.slow  # the next one opens a file in a process in the fast tests
@pytest.mark.parametrize("name", ["narrow-attention", "window-attention"])
def test_layers_of_the_toolkit_open_in_a_process_that_has_imported_nothing(name: str) -> None:
    folder = Path(__file__).parent / "0.1" / name
    code = f"import toolkit; print(type(toolkit.load({str(folder)!r})).__name__)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_torchvision_is_imported_for_its_own_layers_and_no_others(tmp_path: Path) -> None:
    """Starting takes half as long without it."""
    for name, content in model_files.pack(Conv2dNormActivation(1, 2)).items():
        (tmp_path / name).write_bytes(content)
    folders = [str(Path(__file__).parent / "0.1" / "narrow-attention"), str(tmp_path)]
    code = f"""
import sys, toolkit.runner
for folder in {folders}:
    print(type(toolkit.load(folder)).__name__, "torchvision" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["TransformerEncoderLayer False", "Conv2dNormActivation True"]


def assert_same(model: nn.Module, folder: Path) -> None:
    tensors, tolerance = example(folder)
    torch.testing.assert_close(outputs(model, tensors["input"]), tensors["output"], rtol=tolerance, atol=tolerance)


def written(name: str) -> bytes:
    """A stored name as it stands in a skeleton."""
    return "c@{}\n{}\n".format(*name.split(".")).encode()


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
class TestTheFilesThemselves:
    def test_they_are_what_they_were(self, version: Path) -> None:
        """A file that is to be different belongs into the folder of a later version."""
        lines = [line.split("  ") for line in (version / "SHA256SUMS").read_text().splitlines()]
        sums = {name: digest for digest, name in lines}
        files = {path.relative_to(version).as_posix(): path for path in version.rglob("*") if path.is_file()}
        assert files.keys() - {"SHA256SUMS"} == sums.keys()
        changed = [name for name in sums if hashlib.sha256(files[name].read_bytes()).hexdigest() != sums[name]]
        assert not changed

    def test_they_are_small(self, version: Path) -> None:
        assert sum(path.stat().st_size for path in version.rglob("*") if path.is_file()) < 400_000

    def test_each_stored_name_is_in_one_of_them(self, version: Path) -> None:
        """A layer that is new needs an artifact, in the folder of the version that is to be released."""
        skeletons = [path.read_bytes() for path in version.rglob("*.skeleton")]
        skeletons += [base64.b64decode(read_field(path, "skeleton")) for path in version.rglob("row-*.record")]
        missing = [name for name in NAMES if not any(written(name) in skeleton for skeleton in skeletons)]
        assert not missing or version != VERSIONS[-1]


@pytest.mark.parametrize("folder", MODELS, ids=name_of)
class TestAModel:
    @pytest.fixture(autouse=True)
    def _engine(self, folder: Path) -> None:
        if folder.name == "torchao":
            pytest.importorskip("torchao")

    def test_as_plain_files_it_computes_what_it_did(self, folder: Path) -> None:
        assert_same(toolkit.load(folder, allow=[NETS]), folder)

    def test_as_a_packed_file_it_computes_what_it_did(self, folder: Path) -> None:
        pytest.importorskip("constriction")
        assert_same(toolkit.load(folder / "model.packed", allow=[NETS]), folder)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_a_network_that_a_source_builds_is_in_format_2(version: Path) -> None:
    with safetensors.safe_open(version / "built" / "model.safetensors", framework="pt") as file:
        content = json.loads(file.metadata()["toolkit"])
    assert content["format"] == 2
    assert content["built"]["source"] == "frozen_nets.py:residual"
    assert content["built"]["args"] == {"channels": 3}
    assert set(content["built"]["places"]) == {"0:", "0.shortcut:function"}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
class TestACheckpoint:
    def test_a_finished_stage_is_what_it_was(self, version: Path) -> None:
        folder = version / "checkpoint"
        result = read_result(folder / "row-1.record", KEY, (), ())
        assert_same(masks.clone(result.model).eval(), folder)
        assert masks.current(result.model).keys() == {"1.weight", "3.weight"}
        zeros = result.promises.zeros["1.weight"]["pruning"]
        assert torch.equal(masks.current(result.model)["1.weight"], zeros)
        assert result.values["accuracy"] == 0.5
        assert result.values["pruning.layers"].table == [{"layer": "1", "zeros": 0.5}]
        assert result.settings is not None
        assert result.settings.epochs == 2

    def test_a_training_goes_on_to_what_it_came_to(self, version: Path, tmp_path: Path) -> None:
        folder = version / "checkpoint"
        (tmp_path / CHECKPOINT).mkdir()
        shutil.copy(folder / "training-0.record", tmp_path / CHECKPOINT)
        tensors, tolerance = example(folder)
        model = read_result(folder / "row-1.record", KEY, (), ()).model
        keeper = TrainingCheckpoints(RunDirectory(tmp_path), KEY, Stop())
        assert keeper.settings is not None
        data = toolkit.Data(train=(tensors["samples"], tensors["targets"]), batch_size=8)
        steps: list[int] = []
        fit(model, Training(keeper.settings, data.task.loss), data, lambda step, *_: steps.append(step), keeper)
        assert steps == list(range(1, 9))
        found = outputs(model, tensors["input"])
        torch.testing.assert_close(found, tensors["trained"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
class TestARun:
    def test_its_report_is_read(self, version: Path) -> None:
        report = read_report(version / "run")
        numbers = json.loads((version / "run" / "numbers.json").read_text())
        assert [row.stage for row in report.rows] == list(numbers)
        for row in report.rows:
            assert {name: row[name] for name in numbers[row.stage]} == numbers[row.stage]
        assert read_details(version / "run") is not None

    def test_its_report_is_shown(self, version: Path, tmp_path: Path) -> None:
        directory = shutil.copytree(version / "run", tmp_path / "run")  # a page is written into it
        shown = CliRunner().invoke(main, ["report", str(directory)])
        assert shown.exit_code == 0, shown.output
        assert "quantization" in shown.output

    def test_its_model_computes_what_it_did(self, version: Path) -> None:
        assert_same(toolkit.load(version / "run"), version / "run")
