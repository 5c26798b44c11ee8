"""The smoother S_t(x): derivatives of telescoped predictions with respect to the labels.

The engines share one interface (:class:`Smoother`): parameter space (any optimizer with an update
rule), two for function space (squared losses: plain gradient descent, full batches of it in closed
form, and descent with momentum), and one that runs passes of training again (training that is
random, couples rows or moves buffers).
"""

from telescope_core.smoother.base import Smoother, Spans, State, below
from telescope_core.smoother.blocks import Batch, Span
from telescope_core.smoother.function_space import FunctionSpaceSmoother
from telescope_core.smoother.gradient_check import SeenGradient
from telescope_core.smoother.momentum_space import MomentumSpaceSmoother
from telescope_core.smoother.parameter_space import ParameterSpaceSmoother
from telescope_core.smoother.path import Order, Path, make_path, quadrature_of
from telescope_core.smoother.problem import Curvature, Problem, Replay
from telescope_core.smoother.replayed import ReplayedSmoother

__all__ = [
    "Batch",
    "Curvature",
    "FunctionSpaceSmoother",
    "MomentumSpaceSmoother",
    "Order",
    "ParameterSpaceSmoother",
    "Path",
    "Problem",
    "Replay",
    "ReplayedSmoother",
    "SeenGradient",
    "Smoother",
    "Span",
    "Spans",
    "State",
    "below",
    "make_path",
    "quadrature_of",
]
