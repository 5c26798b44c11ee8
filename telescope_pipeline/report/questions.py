"""What each kind of case asks."""

from __future__ import annotations

_QUESTIONS = {
    "approximation_quality": (
        "Is the telescoping model closer to the network than its lazy linearisation, in all five "
        "training settings of the paper and over a grid of learning rates?"
    ),
    "boosting_vs_networks": (
        "Do boosted trees beat the network on regular rows of a table, by more on irregular ones, "
        "and do kernel norms explain it?"
    ),
    "convolutional_network": (
        "How far does telescoping follow a network with ten outputs and cross-entropy, and which "
        "layers hold its effective parameters?"
    ),
    "depth": "At which depth does first-order telescoping break, and does second order hold?",
    "design_choices": (
        "What do momentum, weight decay, adaptive rates and a sigmoid output do to the updates?"
    ),
    "double_descent": (
        "Does test error peak where training error vanishes, and what do effective parameters on "
        "train and test points do there?"
    ),
    "grokking_network": (
        "Why does a network that starts from enlarged weights generalise long after it has "
        "memorised?"
    ),
    "grokking_polynomial": "Why does test error fall long after training error has?",
    "modular_addition": (
        "Do effective parameters on train and test points announce that a small transformer is "
        "about to grok?"
    ),
    "weight_averaging": (
        "Why does averaging the weights of two children work the better the later they part?"
    ),
}


def question_of(kind: str) -> str | None:
    """The question a kind of case asks; None for a kind that the report does not know."""
    return _QUESTIONS.get(kind)
