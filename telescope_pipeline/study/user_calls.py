"""Calling the functions that the user named, with one clear message for whatever goes wrong."""

from __future__ import annotations

import difflib
import inspect
import random
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from telescope_core.errors import ParametersError

# Everyone's generators take seeds of this size; torch's would take larger ones.
_SEEDS = 2**31


def load(leaf: str, reference: str) -> Callable[..., Any]:
    """Import a function.

    Args:
        leaf: The leaf of the case that names it.
        reference: ``<module>:<name>``; its module is importable.

    Returns:
        The function, or anything else that can be called.

    Raises:
        ParametersError: There is no such module or function, or importing it fails.
    """  # noqa: DOC501  # made by _failed
    module_name, _, path = reference.partition(":")
    try:
        here: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _failed(leaf, reference, "importing its module", error) from error
        expected = "a module in the folder of the parameter file, or an installed one"
        raise ParametersError(
            f"{leaf}: got {reference!r}; expected {expected}: there is no module {error.name}"
        ) from None
    except (Exception, SystemExit) as error:
        raise _failed(leaf, reference, "importing its module", error) from error
    for name in path.split("."):
        if not hasattr(here, name):
            close = difflib.get_close_matches(name, dir(here), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ParametersError(
                f"{leaf}: got {reference!r}; expected a function: {module_name} has no {path}{hint}"
            )
        here = getattr(here, name)
    if not callable(here):
        given = type(here).__name__
        raise ParametersError(
            f"{leaf}: got {reference!r}, of type {given}; expected a function or a class"
        )
    function: Callable[..., Any] = here
    return function


def check_signature(
    leaf: str, reference: str, arguments: tuple[str, ...], options: Mapping[str, Any]
) -> None:
    """Refuse a function that cannot be called in the way it will be.

    Args:
        leaf: The leaf of the case that names it.
        reference: ``<module>:<name>``.
        arguments: What its positional arguments are called in the documentation.
        options: Its keyword arguments.

    Raises:
        ParametersError: It takes other arguments, or cannot be imported.
    """
    function = load(leaf, reference)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # written in C: calling it will tell
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        call = ", ".join([*arguments, *(f"{name}={value!r}" for name, value in options.items())])
        raise ParametersError(
            f"{leaf}: got {reference!r}, which is {_name(reference)}{signature}; expected a "
            f"function that can be called as {_name(reference)}({call}): {error}"
        ) from None


def user_seed(seed: int) -> int:
    """Bring a derived seed into the range that generators of any library take."""
    return seed % _SEEDS


def call(leaf: str, reference: str, *arguments: Any, **options: Any) -> Any:
    """Call a function of the user's.

    Args:
        leaf: The leaf of the case that names it.
        reference: ``<module>:<name>``.
        *arguments: Its positional arguments.
        **options: Its keyword arguments.

    Returns:
        What it returns.

    Raises:
        ParametersError: It cannot be imported, or it raises something.
    """  # noqa: DOC501  # made by _failed
    function = load(leaf, reference)
    try:
        return function(*arguments, **options)
    except Exception as error:
        raise _failed(leaf, reference, "calling it", error) from error


def number(leaf: str, reference: str, *arguments: Any) -> float:
    """Call a function that returns one number.

    Returns:
        The number.

    Raises:
        ParametersError: The function fails or returns something else.
    """  # noqa: DOC501  # made by wrong
    made = call(leaf, reference, *arguments)
    try:
        return float(made)
    except (TypeError, ValueError, RuntimeError):
        raise wrong(leaf, reference, made, "a number") from None


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _name(reference: str) -> str:
    return reference.rpartition(":")[2].rpartition(".")[2]


def wrong(leaf: str, reference: str, made: Any, expected: str) -> ParametersError:
    """The error for a function that returned something else than was expected."""
    given = type(made).__name__
    return ParametersError(f"{leaf}: {reference} returned {given}; expected {expected}")


def _failed(leaf: str, reference: str, what: str, error: BaseException) -> ParametersError:
    frames = traceback.extract_tb(error.__traceback__)
    # A syntax error has no frame in the file it is in.
    place = (error.filename, error.lineno) if isinstance(error, SyntaxError) else None
    if place is None and len(frames) > 1:
        place = frames[-1].filename, frames[-1].lineno
    where = f" ({Path(place[0] or '').name}, line {place[1]})" if place else ""
    reason = error.msg if isinstance(error, SyntaxError) else error
    return ParametersError(
        f"{leaf}: {what}, {reference}, raised {type(error).__name__}: {reason}{where}; "
        "mend it, or name another one"
    )
