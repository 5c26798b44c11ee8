"""Modular addition, on which small networks grok (after Power et al. 2022)."""

from __future__ import annotations

import torch

from telescope_core.errors import DataError
from telescope_core.seeds import derive_seed
from telescope_pipeline.study.datasets.dataset import Dataset, describe_noise, describe_split


def modular_addition(modulus: int, train_fraction: float, seed: int) -> Dataset:
    """Split all sums ``a + b = c (mod p)`` at random into training and test sets.

    Args:
        modulus: p, at least 2.
        train_fraction: Proportion of the p^2 pairs (a, b) that are for training; the rest, without
            overlap, are for testing.
        seed: Decides the split.

    Returns:
        The data set. Inputs are tokens ``[a, b, p]`` (rows, 3), int64, where p stands for the
        equals sign, so that the vocabulary has p + 1 tokens; targets are c (rows,), int64.

    Raises:
        DataError: The modulus is below 2, or the fraction leaves one of the sets empty.
    """
    if modulus < 2:
        raise DataError(f"modulus must be at least 2, got {modulus}")
    pairs = modulus * modulus
    train_size = round(train_fraction * pairs) if 0.0 < train_fraction < 1.0 else 0
    if not 0 < train_size < pairs:
        raise DataError(
            f"train_fraction must leave some of the {pairs} pairs for training and some for "
            f"testing, got {train_fraction}"
        )
    index = torch.arange(pairs)
    first, second = index // modulus, index % modulus
    inputs = torch.stack([first, second, torch.full_like(first, modulus)], dim=1)
    targets = (first + second) % modulus
    generator = torch.Generator().manual_seed(derive_seed(seed, "modular_addition", "split"))
    order = torch.randperm(pairs, generator=generator)
    train_rows, test_rows = order[:train_size], order[train_size:]
    train = inputs[train_rows], targets[train_rows]
    test = inputs[test_rows], targets[test_rows]
    card = {
        "name": "modular_addition",
        "source": f"generated: all pairs a, b below {modulus} with (a + b) mod {modulus}; setting "
        "of Power et al. 2022, 'Grokking: Generalization beyond overfitting on small algorithmic "
        "datasets'",
        "licence": "generated, no licence attached",
        "task": f"classification, {modulus} classes",
        "vocabulary": modulus + 1,
        "seed": seed,
        "train": describe_split(*train, classes=True),
        "test": describe_split(*test, classes=True),
        "normalisation": "none: tokens",
        "label_noise": describe_noise(),
    }
    return Dataset(
        *train, *test, card=card, extras={"train_rows": train_rows, "test_rows": test_rows}
    )
