"""tiara: a large MLP that says from the 6-mers of a piece of DNA whose it is; measured on the FASTA in its own wheel.

Karlicki, Antonowicz and Karnkowska, "Tiara: deep learning-based classification system for eukaryotic sequences", 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from installed import folder
from torch import Tensor, nn

from toolkit import Data
from toolkit.tasks import Classification

K = 6
CLASSES = ["organelle", "bacteria", "unknown", "archaea", "eukarya"]
FILES = {"archaea": "archaea", "bacteria": "bacteria", "eukarya": "eukarya"}
FILES |= {"mitochondria": "organelle", "plast": "organelle"}
BASES = np.full(256, -1)
BASES[[ord(base) for base in "ACGT"]] = range(4)


def network() -> nn.Module:
    """The network of the first stage, with the weights of the package and its softmax at the end."""
    model = nn.Sequential(
        nn.Linear(4**K, 2048),
        nn.Dropout(0.2),
        nn.ReLU(),
        nn.Linear(2048, 1024),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(1024, len(CLASSES)),
        nn.Softmax(1),
    )
    path = folder("tiara") / "models" / "nnet-models" / f"first_nnet_kmer_{K}.pkl"
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model


def records(name: str) -> Iterator[tuple[str, str]]:
    """The description and the sequence of each record in one of the labelled files."""
    text = (folder("tiara") / "test" / "test_data" / f"{name}_fr.fasta").read_text()
    for record in text.split(">")[1:]:
        description, _, lines = record.partition("\n")
        yield description.strip(), lines.replace("\n", "")


def pieces(sequence: str, bases: int) -> list[str]:
    """A sequence in pieces of so many bases, without what is left at its end; one of unknown bases is left out."""
    cut = [sequence[start : start + bases] for start in range(0, len(sequence) - bases + 1, bases)]
    return [piece for piece in cut or [sequence] if set(piece) & set("ACGT")]


def count_kmers(sequence: str) -> npt.NDArray[np.float32]:
    """How often each of the 4,096 6-mers occurs, in alphabetical order; those with other letters do not count."""
    codes = BASES[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]
    windows = np.lib.stride_tricks.sliding_window_view(codes, K)
    known = windows[(windows >= 0).all(axis=1)]
    return np.bincount(known @ (4 ** np.arange(K)[::-1]), minlength=4**K).astype(np.float32)


def features(sequences: list[str]) -> Tensor:
    """The inputs (N, 4096) float32: counts of 6-mers, weighted by their rarity, each row of length 1."""
    rarity = np.load(folder("tiara") / "models" / "tfidf-models" / f"k{K}-first-stage" / "model.npy")
    weighted = np.stack([count_kmers(sequence) for sequence in sequences]) * rarity.astype(np.float32)
    return torch.from_numpy(weighted / np.linalg.norm(weighted, axis=1, keepdims=True))


class Origin(Classification):
    """One of five origins; the outputs (N, 5) are probabilities."""

    def logits(self, outputs: Any) -> Tensor:
        """Their logarithms."""
        return outputs.clamp_min(1e-12).log()


def dna(bases: int = 1000, of_each: int = 400) -> Data:
    """Pieces of DNA, the first so many of each file, dealt out to the three splits by record.

    The network is made for pieces of 5,000 bases and makes no mistakes on them; on short ones it does.
    """
    splits: list[tuple[list[str], list[int]]] = [([], []), ([], []), ([], [])]
    for name, origin in FILES.items():
        found = [sequence for _, sequence in records(name)]
        for split, (sequences, targets) in enumerate(splits):
            own = [piece for sequence in found[split::3] for piece in pieces(sequence, bases)]
            chosen = own[:: max(1, len(own) // of_each)][:of_each]
            sequences += chosen
            targets += [CLASSES.index(origin)] * len(chosen)
    train, validation, test = ((features(sequences), torch.tensor(targets)) for sequences, targets in splits)
    return Data(train, validation, test, task=Origin())
