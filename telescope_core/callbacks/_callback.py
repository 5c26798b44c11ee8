"""What users meet in the callback of any framework: the same arguments, and the lens."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from telescope_core.callbacks._follower import Follower
from telescope_core.lens import TelescopeLens

P = ParamSpec("P")


class LensCallback:
    """A mixin that stands before the framework's own class."""

    def __init__(self, follower: Follower) -> None:
        super().__init__()
        self._follower = follower

    @property
    def lens(self) -> TelescopeLens:
        """The lens, from the start of training on; also afterwards.

        Raises:
            ConfigurationError: Training has not started yet.
        """
        return self._follower.lens


def takes_arguments_of(
    shared: Callable[P, object],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Show a constructor with the arguments that it passes on, and its own keywords among them.

    For type checkers it takes the arguments of ``shared``, to which it passes ``*arguments`` and
    ``**options`` on; ``shared`` has ``**options``, too, which let its own keywords through.

    Returns:
        A decorator that gives the constructor signature and docstring, and does not wrap it.
    """

    def dress(own: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        itself, *added = inspect.signature(own).parameters.values()
        passed_on = inspect.signature(shared)
        keywords = [argument for argument in added if argument.kind is argument.KEYWORD_ONLY]
        arguments = [itself, *keywords, *passed_on.parameters.values()]
        in_order = sorted(arguments, key=lambda argument: argument.kind)
        own.__signature__ = passed_on.replace(parameters=in_order)  # type: ignore[attr-defined]
        own.__doc__ = shared.__doc__
        return own

    return dress
