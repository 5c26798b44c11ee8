"""What the lens does about training that it cannot follow."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from telescope_core.errors import RefusalWarning, TelescopeError

OnRefusal = Literal["raise", "warn"]
"""Raise the error, or warn once and go on with what is still right."""


class Refusals:
    """Raises refusals, or notes them and narrows what is followed.

    Attributes:
        reason: The first error, as text; ``None`` as long as everything is followed.
        is_blind: Whether nothing but the network's own outputs is right any more.
    """

    def __init__(self, policy: OnRefusal) -> None:
        self._policy = policy
        self._unsaid = False
        self._without_smoother: Callable[[], None] = lambda: None
        self.reason: str | None = None
        self.is_blind = False

    def on_giving_up(self, act: Callable[[], None]) -> None:
        """Say what is to be done when the smoother is given up."""
        self._without_smoother = act

    def smoother(self, error: TelescopeError) -> None:
        """Raise an error that concerns the smoother alone, or go on without a smoother."""
        if self._policy == "raise":
            raise error
        self._note(error, "goes on with predictions only")
        self._without_smoother()

    @contextmanager
    def or_smoother(self) -> Iterator[None]:
        """Treat an error in here as one that concerns the smoother alone."""
        try:
            yield
        except TelescopeError as error:
            self.smoother(error)

    @contextmanager
    def or_blind(self) -> Iterator[None]:
        """Let an error in here through, or go on with the network's own outputs only."""
        try:
            yield
        except TelescopeError as error:
            if self._policy == "raise":
                raise
            self._note(error, "goes on with the network's own outputs only")
            self._without_smoother()
            self.is_blind = True

    def news(self) -> str | None:
        """The reason, the first time it is asked for."""
        unsaid, self._unsaid = self._unsaid, False
        return self.reason if unsaid else None

    def _note(self, error: TelescopeError, consequence: str) -> None:
        if self.reason is None:
            self.reason = f"{type(error).__name__}: {error}"
            self._unsaid = True
        message = f"the lens {consequence}, since it cannot follow this training: {error}"
        warnings.warn(message, RefusalWarning, stacklevel=2)
