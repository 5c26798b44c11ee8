"""Formulas of captions as plain text."""

from __future__ import annotations

import re

_SYMBOLS = {"alpha": "α", "gamma": "γ", "theta": "θ", "sigma": "σ", "epsilon": "ε", "times": "×"}


def without_formulas(text: str) -> str:
    r"""Write the formulas of a caption, ``$\alpha$``, in the letters they show.

    Args:
        text: Text in which dollar signs enclose formulas as matplotlib reads them.

    Returns:
        The text, formulas without dollar signs, commands and braces.
    """
    return re.sub(r"\$([^$]+)\$", lambda formula: _plain(formula[1]), text)


def _plain(formula: str) -> str:
    spelled = re.sub(r"\\([a-zA-Z]+) ?", lambda command: _SYMBOLS.get(command[1], ""), formula)
    return re.sub(r"[{}\\]|~", "", spelled)
