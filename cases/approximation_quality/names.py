"""Names of groups and lenses, as they appear in tables and files."""

from __future__ import annotations


def group_name(optimizer: str, learning_rate: float) -> str:
    """Name of the members with this optimizer and learning rate, e.g. ``sgd-lr-0.01``."""
    return f"{optimizer}-lr-{float(learning_rate)!r}"


def lens_name(order: int, stride: int) -> str:
    """A lens in the name of a column: ``order2-stride10`` in ``test/accuracy@order2-stride10``."""
    return f"order{order}-stride{stride}"


def lens_label(order: int, stride: int) -> str:
    """A lens as a legend names it, e.g. ``2nd order, every 10 steps``."""
    ordinal = {1: "1st", 2: "2nd"}[order]
    return f"{ordinal} order, every {'step' if stride == 1 else f'{stride} steps'}"


def optimizer_label(name: str) -> str:
    """An optimizer as a figure names it, e.g. ``AdamW``."""
    return {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[name]
