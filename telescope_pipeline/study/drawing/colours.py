"""One palette for all figures: a colour means the same thing in every one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """A colour on white paper and, for a page with a dark scheme, on black.

    Attributes:
        light: Hexadecimal, ``"#0072B2"``.
        dark: The same.
    """

    light: str
    dark: str

    @property
    def expression(self) -> dict[str, str]:
        """In Vega-Lite; it follows the parameter ``dark``."""
        return {"expr": f"dark ? '{self.dark}' : '{self.light}'"}

    def tint(self, part: float) -> Colour:
        """Mix it with white; ``part`` is how much of the result is white."""
        white = "#FFFFFF"
        return Colour(_mixed(self.light, white, part), _mixed(self.dark, white, part))


# Okabe and Ito's palette, told apart by readers with any colour vision.
TRAIN = Colour("#0072B2", "#4FA9E0")
TEST = Colour("#D55E00", "#F08B45")
NETWORK = Colour("#000000", "#F0F0F0")
LAZY = Colour("#7F7F7F", "#A6A6A6")
TELESCOPED = (
    Colour("#009E73", "#27C499"),
    Colour("#CC79A7", "#DE94BC"),
    Colour("#56B4E9", "#7CC6F0"),
    Colour("#E69F00", "#F2B838"),
)
GUIDE = Colour("#4D4D4D", "#B8B8B8")
GAP = Colour("#ECECEC", "#303036")

SETS = {"train": TRAIN, "test": TEST}
"""The colours of points of the training and of the test set."""

# From light to dark, in equal steps of brightness, as in viridis.
_ORDERED = ("#FDE725", "#A0DA39", "#4AC16D", "#1FA187", "#277F8E", "#365C8D", "#46327E", "#440154")
# Yellow is hard to see on white, violet on black.
_ON_WHITE, _ON_BLACK = (0.08, 1.0), (0.0, 0.7)


def shades(count: int) -> list[Colour]:
    """Colours for an ordered quantity such as the width, darker for more.

    Args:
        count: How many.

    Returns:
        The colours, the lightest first.
    """
    places = [position / max(1, count - 1) for position in range(count)]
    return [Colour(_shade(place, _ON_WHITE), _shade(place, _ON_BLACK)) for place in places]


def _shade(place: float, between: Sequence[float]) -> str:
    low, high = between
    position = (low + place * (high - low)) * (len(_ORDERED) - 1)
    before = min(int(position), len(_ORDERED) - 2)
    return _mixed(_ORDERED[before], _ORDERED[before + 1], position - before)


def _mixed(one: str, other: str, part: float) -> str:
    """A colour between two; ``part`` is how much of it is the second."""
    pairs = ((int(one[n : n + 2], 16), int(other[n : n + 2], 16)) for n in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * part):02X}" for a, b in pairs)
