"""Channels against Torch-Pruning: the same networks, as many MACs, the same fine-tuning by the same loop.

    python tests/benchmarks/channel_peers.py [--photos FOLDER --weights FILE] [--runs FILE] [--results FILE]

LeNet-5 on the digits; with `--photos`, a ResNet-20 on photos of 32 pixels. `pip install --no-deps torch-pruning`
installs the other tool. Each tool's best setting is chosen on 5,000 training samples that nothing is trained on, before
the errors on the test split are compared. Runs that `--runs` has already are not done again, and where both tools leave
the same weights, one training is the run of both.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import toolkit_channels as channels
import torch
from peer_networks import Network, digits, photos
from tabulate import tabulate
from torch import nn

from toolkit import Data, masks
from toolkit.metrics import macs
from toolkit.statistics import mean_interval
from toolkit.training import Training, TrainingSettings, fit
from toolkit.training.precision import with_fixed_precision

SAMPLES, SEEDS = 1_024, (0, 1, 2)
AMOUNT, TOLERANCE = 0.5, 0.02  # of the MACs
TOOLS = ("toolkit", "torch-pruning")
CUT, ERRORS = ("network", "seed", "criterion", "scope"), ("held_out", "wrong")  # what runs say


@dataclass(frozen=True, order=True)
class Setting:
    criterion: str
    scope: str


SETTINGS = [Setting(*pair) for pair in product(("l2", "taylor"), ("layer", "global"))]


def fitted(model: nn.Module, settings: TrainingSettings, samples: int, data: Data, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    some = torch.randperm(data.samples("train"))[:samples]
    training = with_fixed_precision(model, Training(settings, data.task.loss).using(samples=some), data)
    fit(model, training, data)
    return model


def by_toolkit(model: nn.Module, network: Network, setting: Setting, amount: float) -> nn.Module:
    limits = {"amount": amount, "of": "macs", "round_to": 1, "exclude": list(network.alone)}
    params = channels.Params.model_validate({**limits, **asdict(setting), "reestimate": False})
    data = network.data.without_test()
    return channels.optimize(model=model, params=params, data=data, prepared=channels.Findings())


def by_torch_pruning(
    model: nn.Module, network: Network, setting: Setting, gradients: dict[str, torch.Tensor], ratio: float
) -> nn.Module:
    import torch_pruning

    importance = {
        "l2": torch_pruning.importance.GroupMagnitudeImportance,
        "taylor": torch_pruning.importance.GroupTaylorImportance,
    }[setting.criterion]()
    for path, gradient in gradients.items():
        model.get_parameter(path).grad = gradient
    pruner = torch_pruning.pruner.BasePruner(
        model,
        network.data.example(2).inputs,
        importance,
        pruning_ratio=ratio,
        global_pruning=setting.scope == "global",
        ignored_layers=[model.get_submodule(name) for name in network.alone],
    )
    pruner.step()
    return model


def gradients_of(model: nn.Module, data: Data) -> dict[str, torch.Tensor]:
    """The gradients of the mean loss over as many training samples as the toolkit reads."""
    example = data.example(SAMPLES)
    data.task.loss(model.eval()(example.inputs), example).backward()
    found = {path: parameter.grad for path, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def with_share_of_macs(cut: Callable[[float], nn.Module], wanted: float, whole: float, data: Data) -> nn.Module:
    """The cut network whose share of the MACs is closest to the one that is wanted, by bisection of the ratio."""
    low, high, found = 0.0, 1.0, list[tuple[float, nn.Module]]()
    for _ in range(12):
        ratio = (low + high) / 2
        share = macs(smaller := cut(ratio), data) / whole
        found.append((abs(share - wanted), smaller))
        low, high = (ratio, high) if share > wanted else (low, ratio)
    return min(found, key=lambda pair: pair[0])[1]


def cut_by_both(model: nn.Module, network: Network, setting: Setting) -> dict[str, tuple[nn.Module, float]]:
    """The networks and their shares of the MACs: the toolkit leaves at most as many as Torch-Pruning."""
    torch.manual_seed(0)
    data, whole = network.data, macs(model, network.data)
    gradients = gradients_of(masks.clone(model), data) if setting.criterion == "taylor" else {}
    cut = lambda ratio: by_torch_pruning(masks.clone(model), network, setting, gradients, ratio)  # noqa: E731
    theirs = with_share_of_macs(cut, 1 - AMOUNT, whole, data)
    wanted = macs(theirs, data) / whole
    ours = by_toolkit(masks.clone(model), network, setting, 1 - wanted)
    share = macs(ours, data) / whole
    if abs(share / wanted - 1) > TOLERANCE:
        raise SystemExit(f"{setting}: {share:.3f} of the MACs are left instead of {wanted:.3f}")
    return {TOOLS[0]: (ours, share), TOOLS[1]: (theirs, wanted)}


def wrong(model: nn.Module, data: Data, split: str) -> list[int]:
    """The positions in a split of the samples with wrong answers."""
    with torch.no_grad():
        answers = [(data.task.forward(model.eval(), batch).argmax(1), batch.targets) for batch in data.batches(split)]
    return torch.cat([answer != target for answer, target in answers]).nonzero().flatten().tolist()


def is_same(one: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks have the same tensors."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


def errors_after(smaller: nn.Module, network: Network, seed: int) -> dict[str, Any]:
    """The errors of a cut network after its fine-tuning."""
    fitted(smaller, network.tuned, network.tuned_samples, network.data, seed)
    held_out, test = (wrong(smaller, network.data, split) for split in ("validation", "test"))
    return dict(zip(ERRORS, (len(held_out), test), strict=True))


def runs_of(network: Network, seeds: Collection[int], file: Path) -> list[dict[str, Any]]:
    """All runs of a network, those of the file included; it is written after every setting."""
    done: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    known = {(run["network"], run["seed"], run["tool"], Setting(run["criterion"], run["scope"])) for run in done}
    for seed in seeds:
        missing = {
            each: tools
            for each in SETTINGS
            if (tools := [tool for tool in TOOLS if (network.name, seed, tool, each) not in known])
        }
        if missing:
            torch.manual_seed(seed)
            model = fitted(network.build(), network.trained, network.trained_samples, network.data, seed)
            print(f"seed {seed}: {len(wrong(model, network.data, 'validation'))} errors, held out, uncut", flush=True)
        for setting, tools in missing.items():
            cut = cut_by_both(model, network, setting)
            same = is_same(*(smaller for smaller, _ in cut.values()))
            for tool in tools:
                smaller, share = cut[tool]
                key = {"network": network.name, "seed": seed, "tool": tool, **asdict(setting), "macs": share}
                trained = [run for run in done if same and all(run[name] == key[name] for name in CUT)]
                errors = (
                    {name: trained[0][name] for name in ERRORS} if trained else errors_after(smaller, network, seed)
                )
                done.append({**key, **errors})
                print(key, errors["held_out"], len(errors["wrong"]), flush=True)
            file.write_text(json.dumps(done))
    return [run for run in done if run["network"] == network.name and run["seed"] in seeds]


def best(runs: list[dict[str, Any]], tool: str, settings: Iterable[Setting]) -> Setting:
    """The setting with the fewest errors on the held-out training samples, over all seeds."""
    return min(settings, key=lambda setting: sum(run["held_out"] for run in of(runs, tool, setting)))


def of(runs: list[dict[str, Any]], tool: str, setting: Setting) -> list[dict[str, Any]]:
    found = [run for run in runs if (run["tool"], Setting(run["criterion"], run["scope"])) == (tool, setting)]
    return sorted(found, key=lambda run: run["seed"])


def comparisons(runs: list[dict[str, Any]], samples: int) -> Iterator[dict[str, Any]]:
    """Both tools with each setting, and each with its best; the difference is of the same samples and seeds."""
    seeds = sorted({run["seed"] for run in runs})
    done = [each for each in SETTINGS if all([run["seed"] for run in of(runs, tool, each)] == seeds for tool in TOOLS)]
    named = {f"{setting.criterion}, {setting.scope}": (setting, setting) for setting in done}
    named["each one's best"] = (best(runs, TOOLS[0], done), best(runs, TOOLS[1], done))
    for name, settings in named.items():
        ours, theirs = (of(runs, tool, setting) for tool, setting in zip(TOOLS, settings, strict=True))
        differences = np.zeros(samples)
        for one, other in zip(ours, theirs, strict=True):
            differences[one["wrong"]] += 1 / len(ours)
            differences[other["wrong"]] -= 1 / len(ours)
        points = [100 * value for value in (differences.mean(), *mean_interval(differences))]
        yield {
            "settings": name,
            "chosen": [f"{setting.criterion}, {setting.scope}" for setting in settings],
            **{tool: [len(run["wrong"]) for run in found] for tool, found in zip(TOOLS, (ours, theirs), strict=True)},
            "held_out": [[run["held_out"] for run in found] for found in (ours, theirs)],
            "macs": [float(np.mean([run["macs"] for run in found])) for found in (ours, theirs)],
            "more_errors_points": points[0],
            "interval_points": points[1:],
        }


def circumstances() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    versions = {name: version(name) for name in ("torch", "torch-pruning", "torch-optimization-toolkit")}
    return {"date": datetime.now(UTC).date().isoformat(), "processor": processor, "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos")
    parser.add_argument("--weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--runs", type=Path, default=Path(tempfile.mkdtemp()) / "runs.json")
    parser.add_argument("--results", type=Path, help="JSON in which the comparisons of the network are replaced")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    network = photos(asked.photos, asked.weights) if asked.photos else digits()
    found = list(comparisons(runs_of(network, asked.seeds, asked.runs), network.data.samples("test")))
    if asked.results:
        kept = json.loads(asked.results.read_text()) if asked.results.exists() else {}
        kept[network.name] = {**circumstances(), "comparisons": found}
        asked.results.write_text(json.dumps(kept, indent=1) + "\n")
    for each in found:
        low, high = each["interval_points"]
        each["more errors, points"] = f"{each['more_errors_points']:+.2f} ({low:+.2f} to {high:+.2f})"
    heads = ["settings", "chosen", *TOOLS, "macs", "more errors, points"]
    print(tabulate([[each[head] for head in heads] for each in found], heads))


if __name__ == "__main__":
    main()
