"""Words for the keys of results: names of groups, quantities and bounds as people write them."""

from __future__ import annotations

import re

# Whole keys whose words are not those that they are made of.
_WHOLE = {
    "furthest_from_one": "distance from 1 at most",
    "minimum": "at least",
    "maximum": "at most",
    "standard_errors": "standard errors beyond which it counts",
    "confirmations": "records that confirm it",
    "broken_error": "broken from an error of",
    "interpolation_mse": "train error counts as vanished at",
    "memorised_accuracy": "train accuracy when memorised",
    "generalised_accuracy": "test accuracy when generalised",
    "minimum_delay": "generalised over memorised step at least",
    "minimum_fall": "fall by a factor of at least",
    "divergence_errors": "standard errors that tell the sets apart",
    "divergence_gap": "effective parameters that tell the sets apart",
    "peak_factor": "peak within this factor of the threshold",
    "early_lead": "lead of the test points, as a part, above",
    "early_steps": "steps at most",
    "complexity_factor": "times as many, at least",
    "closer_than_lazy": "times closer, at least",
    "accuracy_gap": "difference of accuracies at most",
    "low_error": "error that counts as low",
    "low_train_error": "train error that counts as low",
    "largest_ratio": "ratio at most",
    "overall": "over all",
    "head": "last linear layer",
    "norm": "BatchNorm layers",
    "convolution": "convolution layers",
    "plain": "plain",
    "scratch": "from scratch",
    "pretrained": "pre-trained",
    "log10": "common logarithm",
    "by_proportion": "by part of irregular rows",
    "breaks_at_depth": "breaks at depth",
    "whole": "all runs",
}
_PHRASES = {
    "approximation error": "telescoped error",
    "linearization error": "lazy error",
    "linearized accuracy": "lazy accuracy",
    "over telescoped error": "over telescoped error",
    "mse": "mean squared error",
    "log10": "(log₁₀)",
    "quantile10": "10th percentile",
    "quantile90": "90th percentile",
    "90th over 10th": "90th over 10th percentile",
    "sgd": "SGD",
    "adamw": "AdamW",
    "adam": "Adam",
    "order1": "1st order",
    "order2": "2nd order",
    "lr": "learning rate",
    "minus": "minus",
    "by fifth": "by fifths of confidence",
}
# Names that sweeps give to groups, one part after the other.
_PARTS: tuple[tuple[str, str], ...] = (
    (r"^label-noise-0(?:\.0+)?$", "no label noise"),
    (r"^label-noise-(\S+)$", r"part \1 of the labels wrong"),
    (r"^alpha-(\d+(?:\.\d+)?)$", r"α = \1"),
    (r"^epsilon-(\S+)$", r"ε = \1"),
    (r"^(plain|residual)-depth-(\d+)$", r"\1, \2 layers"),
    (r"^test-p(\d+)$", r"test set with \1 % irregular rows"),
    (r"^convolutions?[.-](\d+)$", r"convolution, index \1"),
    (r"^order1-stride(\d+)$", r"1st order, every \1 steps"),
    (r"^order2-stride(\d+)$", r"2nd order, every \1 steps"),
    (r"^stride(\d+)$", r"every \1 steps"),
    (r"^order1$", "1st order"),
    (r"^order2$", "2nd order"),
    (r"^(sgd|adamw?)$", r"\1"),
    (r"^(sgd|adamw?)-lr-(\S+)$", r"\1, γ = \2"),
    (r"^(sgd|adamw?)-([a-z]+)(\d\S*?)?-lr-(\S+)$", r"\1, \2 \3, γ = \4"),
    (r"^(sgd|adamw?)-([a-z]+)(\d\S*)?$", r"\1, \2 \3"),
    (r"^([\d.]+)-([\d.]+)$", r"\1 to \2"),
)


def words_of(key: str) -> str:
    """Write a key of a result as people write it.

    Args:
        key: A key of claims or metrics, or the name of a group of runs.

    Returns:
        Words without underscores, and numbers without the zeros that sort them; a name that no rule
        knows keeps its own words.
    """
    key = str(key)
    if key in _WHOLE:
        return _WHOLE[key]
    if re.fullmatch(r"[\d.]+", key) and not key.isdecimal():
        return key
    parts = [_part(part) for part in re.split(r"/|(?<=\d)_(?=[a-z])", key)]
    return ", ".join(filter(None, parts))


def _part(text: str) -> str:
    dashed = re.sub(r"^(alpha|epsilon|test)_(?=p?\d)|^(convolutions?)_(?=\d)", r"\1\2-", text)
    for pattern, words in _PARTS:
        found = re.match(pattern, dashed)
        if found:
            text = re.sub(r"every 1 steps", "every step", found.expand(words).replace(" ,", ","))
            break
    text = text.replace("_", " ")
    if re.fullmatch(r"[a-z]+(-[a-z]+)+", text):
        text = text.replace("-", " ")
    for phrase, words in _PHRASES.items():
        text = re.sub(rf"\b{re.escape(phrase)}\b", words, text)
    return re.sub(r"(?<![\d.])0+(?=\d)(?!\.)", "", text).replace(".0,", ",").strip()
