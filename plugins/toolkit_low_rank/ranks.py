"""How small the factors of each layer are: by energy, by a share of the full rank, or by what has to go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

import toolkit
from toolkit_low_rank.factors import (
    Spectrum,
    input_matrix,
    kept_energy,
    matrix_factors,
    output_matrix,
    rank_of_energy,
    root,
    spectrum,
    tucker_energy,
    tucker_factors,
)
from toolkit_low_rank.layers import Candidate
from toolkit_low_rank.params import DEFAULT_ENERGY, Params

BISECTIONS = 40

Ranks: TypeAlias = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Decomposition:
    """A layer with the spectra that its factors are taken from: of its inputs and outputs, or of its outputs alone."""

    candidate: Candidate
    spectra: tuple[Spectrum, ...]

    @classmethod
    def of(cls, candidate: Candidate, moment: Tensor | None = None) -> Decomposition:
        """Decompose a layer; `moment` (inputs, inputs) weights its inputs."""
        weight = candidate.weight.double()
        scale = None if moment is None else root(moment)
        spectra = [spectrum(output_matrix(weight, scale))]
        if candidate.is_tucker:
            matrix = input_matrix(weight)
            spectra.insert(0, spectrum(matrix if scale is None else matrix @ scale))
        return cls(candidate, tuple(spectra))

    def ranks_of_energy(self, energy: float) -> tuple[int, ...]:
        """Return the smallest ranks that keep this share; each of several may lose its part of the rest."""
        part = 1 - (1 - energy) / len(self.spectra)
        return tuple(rank_of_energy(spectrum.squares, part) for spectrum in self.spectra)

    def ranks_of_share(self, share: float) -> tuple[int, ...]:
        """Return this share of the full ranks, rounded, and at least 1."""
        return tuple(max(1, round(share * len(spectrum.squares))) for spectrum in self.spectra)

    def energy(self, ranks: tuple[int, ...]) -> float:
        """Return the share that factors of these ranks keep."""
        if self.candidate.is_tucker:
            inputs, outputs = self.spectra
            return tucker_energy(inputs, outputs, ranks)
        return kept_energy(self.spectra[0].squares, ranks[0])

    def factors(self, ranks: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Return the factors of these ranks, in the order in which they are applied."""
        bases = [part.basis[:, :rank] for part, rank in zip(self.spectra, ranks, strict=True)]
        weight = self.candidate.weight
        if self.candidate.is_tucker:
            needed = self.candidate.has_factors(ranks)
            return tucker_factors(weight, *(basis if need else None for basis, need in zip(bases, needed, strict=True)))
        return matrix_factors(weight.flatten(1), *bases)


def choose(layers: Sequence[Decomposition], params: Params, total: int) -> Ranks:
    """Return the ranks of each layer whose factors have fewer MACs than it has.

    Args:
        layers: what can be factored.
        params: how much of it stays.
        total: parameters of the network, of which `amount` is a share.

    Raises:
        TechniqueError: factors of rank 1 do not save as much as `amount` asks for.
    """
    if params.rank is not None:
        share = params.rank
        return _saving(layers, [layer.ranks_of_share(share) for layer in layers])
    if params.amount is not None:
        return _within(layers, params.amount, total)
    return _of_energy(layers, DEFAULT_ENERGY if params.energy is None else params.energy)


def saved_parameters(layers: Sequence[Decomposition], ranks: Ranks) -> int:
    """Return how many parameters less the network has with factors of these ranks."""
    return sum(
        sum(candidate.sizes()) - sum(candidate.sizes(ranks[candidate.path]))
        for candidate in (layer.candidate for layer in layers)
        if candidate.path in ranks
    )


def _saving(layers: Sequence[Decomposition], ranks: Sequence[tuple[int, ...]]) -> Ranks:
    return {
        layer.candidate.path: chosen
        for layer, chosen in zip(layers, ranks, strict=True)
        if layer.candidate.macs(chosen) < layer.candidate.macs()
    }


def _of_energy(layers: Sequence[Decomposition], energy: float) -> Ranks:
    return _saving(layers, [layer.ranks_of_energy(energy) for layer in layers])


def _within(layers: Sequence[Decomposition], amount: float, total: int) -> Ranks:
    """Return the ranks of the highest energy at which this share of the parameters goes."""
    low, high = -1.0, 1.0  # two spectra may each lose all but one rank
    most = saved_parameters(layers, _of_energy(layers, low)) / total
    if most < amount:
        raise toolkit.TechniqueError(
            f"factors save at most {most:.1%} of the network's parameters, and amount asks for {amount:.1%}; lower it"
        )
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if saved_parameters(layers, _of_energy(layers, middle)) >= amount * total:
            low = middle
        else:
            high = middle
    return _of_energy(layers, low)
