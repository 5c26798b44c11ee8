"""Calling the functions that the user named, with one clear message for whatever goes wrong."""

from __future__ import annotations

import difflib
import inspect
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from telescope_core.errors import ParametersError, TelescopeError
from telescope_pipeline.schemas.messages import LONGEST, shortened, text_of
from telescope_pipeline.schemas.secrets import HIDDEN, is_secret_name, masked

# Everyone's generators take seeds of this size; torch's would take larger ones.
_SEEDS = 2**31

# What code of the user's may raise: `sys.exit()` there must not pass for success.
_RAISED = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)
# Frames of these tell nothing of whose code is at fault.
_OURS = ("telescope_core", "telescope_pipeline")
_NOBODYS = ("torch", *_OURS)
# How far a chain of exceptions is followed.
_LONGEST_CHAIN = 8


@contextmanager
def guarded(
    leaf: str,
    reference: str,
    what: str,
    passing: type[BaseException] | tuple[type[BaseException], ...] = (),
) -> Iterator[None]:
    """Make one located error of whatever the user's code raises inside the block.

    Args:
        leaf: The leaf of the case that names the code.
        reference: ``<module>:<name>``.
        what: What is done with it, for the message.
        passing: Exceptions of our own, which go through.

    Raises:
        ParametersError: The code raises something, be it ``SystemExit``.
    """  # noqa: DOC501  # made by _failed
    try:
        yield
    except passing:
        raise
    except _RAISED as error:
        if is_interruption(error):
            raise
        raise _failed(leaf, reference, what, error) from error


@contextmanager
def attributed(references: Mapping[str, str]) -> Iterator[None]:
    """Say which of the user's functions is behind what is raised inside the block.

    What comes from elsewhere goes through as it is.

    Args:
        references: Their places by leaf; the first one that fits is named.

    Raises:
        ParametersError: The user's code raises something.
        TelescopeError: Of the same type as before, if one of ours tells what that code raised.
    """  # noqa: DOC501  # made by _failed
    try:
        yield
    except _RAISED as error:
        ours = isinstance(error, TelescopeError)
        cause = error.__cause__ if ours else error
        if cause is None or isinstance(error, ParametersError) or is_interruption(error):
            raise
        leaf = _origin(cause, references)
        if leaf is None:
            raise
        if ours:
            where = _place(cause, references[leaf])
            raise type(error)(f"{leaf}: {references[leaf]}{where}: {text_of(error)}") from error
        raise _failed(leaf, references[leaf], "running its code", error) from error


def is_interruption(error: BaseException) -> bool:
    """Whether an exception is the terminal's Ctrl-C and not raised by the code itself."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def load(leaf: str, reference: str) -> Callable[..., Any]:
    """Import a function.

    Args:
        leaf: The leaf of the case that names it.
        reference: ``<module>:<name>``; its module is importable.

    Returns:
        The function, or anything else that can be called.

    Raises:
        ParametersError: There is no such module or function, or importing it fails.
    """  # noqa: DOC501  # what else is raised becomes one of these
    module_name, _, path = reference.partition(":")
    with guarded(leaf, reference, "importing its module", ParametersError):
        try:
            here: Any = import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            expected = "a module in the folder of the parameter file, or an installed one"
            raise ParametersError(
                f"{leaf}: got {reference!r}; expected {expected}: there is no module {error.name}"
            ) from None
        for name in path.split("."):
            if not hasattr(here, name):
                close = difflib.get_close_matches(name, dir(here), n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ParametersError(
                    f"{leaf}: got {reference!r}; expected a function: {module_name} has no "
                    f"{path}{hint}"
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
    with guarded(leaf, reference, "reading its signature", ParametersError):
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return  # written in C: calling it will tell
        try:
            signature.bind(*arguments, **options)
        except TypeError as error:
            call = ", ".join([*arguments, *(_option(*option) for option in options.items())])
            takes = shortened(f"{_name(reference)}{signature}", LONGEST // 4)
            raise ParametersError(
                f"{leaf}: got {reference!r}, which is {takes}; expected a function that can be "
                f"called as {_name(reference)}({shortened(call, LONGEST // 4)}): {error}"
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
    """
    function = load(leaf, reference)
    with guarded(leaf, reference, "calling it"):
        return function(*arguments, **options)


def number(leaf: str, reference: str, *arguments: Any) -> float:
    """Call a function that returns one number.

    Returns:
        The number.

    Raises:
        ParametersError: The function fails or returns something else.
    """  # noqa: DOC501  # made by wrong
    made = call(leaf, reference, *arguments)
    with guarded(leaf, reference, "reading the number it returned", ParametersError):
        try:
            return float(made)
        except (TypeError, ValueError, RuntimeError):
            raise wrong(leaf, reference, made, "a number") from None


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def wrong(leaf: str, reference: str, made: Any, expected: str) -> ParametersError:
    """The error for a function that returned something else than was expected."""
    given = type(made).__name__
    return ParametersError(f"{leaf}: {reference} returned {given}; expected {expected}")


def _name(reference: str) -> str:
    return reference.rpartition(":")[2].rpartition(".")[2]


def _option(name: str, value: Any) -> str:
    return f"{name}={HIDDEN if is_secret_name(name) else repr(masked(value))}"


def _failed(leaf: str, reference: str, what: str, error: BaseException) -> ParametersError:
    reason = text_of(error)
    return ParametersError(
        f"{leaf}: {what}, {reference}, raised {type(error).__name__}"
        f"{f': {reason}' if reason else ''}{_place(error, reference)}; mend it, or name another one"
    )


def _place(error: BaseException, reference: str) -> str:
    """File and line where it was raised, in the user's own code if it passed there."""
    if isinstance(error, SyntaxError) and error.filename:  # it has no frame in the file it is in
        return f" ({Path(error.filename).name}, line {error.lineno})"
    by_module = [
        (_module(frame).split(".")[0], frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    own = [step for step in by_module if step[0] == _top(reference)]
    others = [step for step in by_module if step[0] not in _OURS]
    if not own and not others:
        return ""
    _, frame, line = (own or others)[-1]
    return f" ({Path(frame.f_code.co_filename).name}, line {line})"


def _origin(error: BaseException, references: Mapping[str, str]) -> str | None:
    """The leaf whose code raised an exception, or one of those that it came up with on the way."""
    frames: list[FrameType] = []
    here: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if here is not None:
            frames += [frame for frame, _ in traceback.walk_tb(here.__traceback__)]
            here = here.__cause__ or here.__context__
    codes = {frame.f_code for frame in frames}
    modules = {_module(frame) for frame in frames}
    tops = {module.split(".")[0] for module in modules} - set(_NOBODYS)
    fits: tuple[Callable[[str, str], bool], ...] = (
        lambda leaf, reference: getattr(load(leaf, reference), "__code__", None) in codes,
        lambda _, reference: _top(reference) in tops and reference.partition(":")[0] in modules,
        lambda _, reference: _top(reference) in tops,
    )
    found = (leaf for fit in fits for leaf, place in references.items() if fit(leaf, place))
    return next(found, None)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _top(reference: str) -> str:
    return reference.partition(":")[0].partition(".")[0]
