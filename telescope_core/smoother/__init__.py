"""The smoother S_t(x): derivatives of telescoped predictions with respect to the labels.

Two engines share one interface (:class:`Smoother`): parameter space (any optimizer with an update
rule) and function space (plain full-batch gradient descent on a squared loss, in closed form).
"""

from telescope_core.smoother.base import Smoother, Spans, State, below
from telescope_core.smoother.blocks import Batch, Span
from telescope_core.smoother.function_space import FunctionSpaceSmoother
from telescope_core.smoother.gradient_check import SeenGradient
from telescope_core.smoother.parameter_space import ParameterSpaceSmoother
from telescope_core.smoother.path import Order, Path, make_path, quadrature_of
from telescope_core.smoother.problem import Problem

__all__ = [
    "Batch",
    "FunctionSpaceSmoother",
    "Order",
    "ParameterSpaceSmoother",
    "Path",
    "Problem",
    "SeenGradient",
    "Smoother",
    "Span",
    "Spans",
    "State",
    "below",
    "make_path",
    "quadrature_of",
]
