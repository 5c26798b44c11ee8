"""How figures are described: lines in panels, one palette, and a description in Vega-Lite."""

from telescope_pipeline.study.drawing.chart import figure
from telescope_pipeline.study.drawing.colours import (
    GUIDE,
    LAZY,
    NETWORK,
    SETS,
    TELESCOPED,
    TEST,
    TRAIN,
    Colour,
    shades,
)
from telescope_pipeline.study.drawing.curves import (
    MODELS,
    bands,
    between,
    measured,
    model_errors,
    on_sets,
)
from telescope_pipeline.study.drawing.panels import Guide, Line, Panel

__all__ = [
    "GUIDE",
    "LAZY",
    "MODELS",
    "NETWORK",
    "SETS",
    "TELESCOPED",
    "TEST",
    "TRAIN",
    "Colour",
    "Guide",
    "Line",
    "Panel",
    "bands",
    "between",
    "figure",
    "measured",
    "model_errors",
    "on_sets",
    "shades",
]
