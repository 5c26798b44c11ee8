"""Every error Telescope raises on purpose.

Each message names what was given, what was expected and what to do about it.  Catch
:class:`TelescopeError` to catch all of them.
"""

from __future__ import annotations

from collections.abc import Sequence


class TelescopeError(Exception):
    """Base class of all errors raised by Telescope."""


class ParametersError(TelescopeError, ValueError):
    """A parameter file, or a value in it, is not usable."""


class ConfigurationError(TelescopeError, ValueError):
    """An argument of the library has the wrong type, is out of range or contradicts another."""


class ModelError(TelescopeError, ValueError):
    """The model cannot be telescoped as it is (stochastic, coupled rows, no parameters)."""


class LossError(TelescopeError, ValueError):
    """The loss is not a differentiable scalar function of outputs and targets."""


class ShapeError(TelescopeError, ValueError):
    """Inputs, targets, indices or outputs disagree in length, shape, dtype or device."""


class UnsupportedOptimizerError(TelescopeError, TypeError):
    """No update rule is known for the optimizer, or for one of its options."""


class TrainingMismatchError(TelescopeError, RuntimeError):
    """The training step did something else than the lens was told about."""


class MemoryBudgetError(TelescopeError, MemoryError):
    """The requested computation does not fit into memory."""


class NonFiniteError(TelescopeError, ArithmeticError):
    """A loss, an output or a parameter became NaN or infinite."""


class DataError(TelescopeError, ValueError):
    """A data set is missing, damaged or not the one expected."""


class ArtifactError(TelescopeError, RuntimeError):
    """A stored file is missing, truncated, tampered with or could not be written."""


class TableError(TelescopeError, ValueError):
    """A table that crosses a stage boundary breaks its schema."""


class ExecutionError(TelescopeError, RuntimeError):
    """A member of a sweep failed, or its worker was lost for good."""


class TrackerError(TelescopeError, RuntimeError):
    """A tracker could not be used; never raised into a training loop."""


class MissingDependencyError(TelescopeError, ImportError):
    """An optional package is needed for what was asked."""


class RefusalWarning(UserWarning):
    """The lens goes on without what it cannot follow (``on_refusal="warn"``) or tell."""


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many there are beside, for messages."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
