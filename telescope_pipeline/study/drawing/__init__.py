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
from telescope_pipeline.study.drawing.panels import SEED, Guide, Line, Panel
from telescope_pipeline.study.drawing.words import about, counted, times

__all__ = [
    "GUIDE",
    "LAZY",
    "MODELS",
    "NETWORK",
    "SEED",
    "SETS",
    "TELESCOPED",
    "TEST",
    "TRAIN",
    "Colour",
    "Guide",
    "Line",
    "Panel",
    "about",
    "bands",
    "between",
    "counted",
    "figure",
    "measured",
    "model_errors",
    "on_sets",
    "shades",
    "times",
]
