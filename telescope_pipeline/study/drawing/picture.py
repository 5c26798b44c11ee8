"""A figure as a picture."""

from __future__ import annotations

import json

from telescope_pipeline.contract import Figure

# Sizes of a description are in these parts of an inch; the converter's own are points.
_UNITS, _POINTS = 96, 72


def png(figure: Figure, dpi: float) -> bytes:
    """Render a figure; the same figure gives the same bytes.

    Args:
        figure: What to render.
        dpi: Pixels to the inch.

    Returns:
        A PNG file.
    """
    import vl_convert

    chart = json.dumps(figure.chart, ensure_ascii=False, allow_nan=False)
    picture: bytes = vl_convert.vegalite_to_png(chart, ppi=dpi * _POINTS / _UNITS)
    return picture
