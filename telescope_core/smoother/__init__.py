"""The smoother S_t(x): derivatives of telescoped predictions with respect to the labels.

Two engines share one interface (:class:`Smoother`): parameter space (any optimizer with an update
rule) and function space (plain full-batch gradient descent on a squared loss, in closed form).
"""

from telescope_core.jacobians.rows import LinearizedRows, RowSet
from telescope_core.smoother.base import Batch, Smoother, Spans, State, below
from telescope_core.smoother.function_space import FunctionSpaceSmoother
from telescope_core.smoother.parameter_space import MidpointSmoother, ParameterSpaceSmoother
from telescope_core.smoother.path import Path, make_path, quadrature_of
from telescope_core.smoother.span import Span

__all__ = [
    "Batch",
    "FunctionSpaceSmoother",
    "LinearizedRows",
    "MidpointSmoother",
    "ParameterSpaceSmoother",
    "Path",
    "RowSet",
    "Smoother",
    "Span",
    "Spans",
    "State",
    "below",
    "make_path",
    "quadrature_of",
]
