"""What the authors of techniques test with: toy models, toy data, and the contract that every technique keeps."""

from toolkit.testing.contract import TechniqueContract
from toolkit.testing.toys import TOY_MODELS, TiedToy, toy_cnn, toy_data, toy_mlp

__all__ = ["TOY_MODELS", "TechniqueContract", "TiedToy", "toy_cnn", "toy_data", "toy_mlp"]
