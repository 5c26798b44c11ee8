"""Reading ``params.yaml``: one message per problem, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from telescope_core.errors import ParametersError
from telescope_pipeline.parameters.limits import check_bounds, check_size
from telescope_pipeline.parameters.model import Parameters
from telescope_pipeline.parameters.problems import describe
from telescope_pipeline.schemas.sections import Case


def load_parameters(path: str | Path, *, only: str | None = None) -> Parameters:
    """Read and validate a parameter file.

    Args:
        path: The YAML file.
        only: A case, beside which the others are neither looked at nor returned; all if None.

    Returns:
        The validated parameters.

    Raises:
        ParametersError: If the file cannot be read or parsed, if values are not usable, or if there
            is no such case.  There is one line per problem, with the dotted path, the value given
            and what was expected.
    """  # noqa: DOC501  # made by problems_error
    path = Path(path)
    raw = _parse(path, _read(path))
    if only is not None:
        raw = _with_one_case(raw, only)
    try:
        return Parameters.model_validate(raw)
    except ValidationError as error:
        raise problems_error(path, describe(error, raw, Parameters)) from None


def load_case(path: str | Path, name: str) -> tuple[Parameters, Case]:
    """Read a parameter file for the sake of one case; see :func:`load_parameters`."""
    parameters = load_parameters(path, only=name)
    return parameters, parameters.cases[name]


def case_of(parameters: Parameters, name: str) -> Case:
    """Return the case called ``name``.

    Raises:
        ParametersError: If there is no such case; the message lists those there are.
    """  # noqa: DOC501  # made by _no_case
    if name not in parameters.cases:
        raise _no_case(name, parameters.cases)
    return parameters.cases[name]


def problems_error(path: Path, lines: Sequence[str]) -> ParametersError:
    """Make one error of lines that name a problem each."""
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return ParametersError("\n".join([f"{path}: {count}", *(f"  {line}" for line in lines)]))


def _with_one_case(raw: dict[Any, Any], name: str) -> dict[Any, Any]:
    cases = raw.get("cases")
    if not isinstance(cases, Mapping):
        return raw  # validation tells what is wrong with it
    if name not in cases:
        raise _no_case(name, cases)
    return {**raw, "cases": {name: cases[name]}}


def _no_case(name: str, cases: Iterable[str]) -> ParametersError:
    known = ", ".join(sorted(map(str, cases)))
    return ParametersError(f"no case is called {name!r}; params.yaml has {known}")


def _read(path: Path) -> str:
    try:
        check_size(path, path.stat().st_size)
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = f"{path}: no such file; name one with --params or go to the project's folder"
        raise ParametersError(message) from None
    except UnicodeDecodeError as error:
        raise ParametersError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ParametersError(f"{path}: cannot be read: {error.strerror}") from None


def _parse(path: Path, text: str) -> dict[Any, Any]:
    # The library DVC uses, so that both read the same numbers, and in C as there, which is
    # stricter than in Python: a colon inside braces wants quotes.
    try:
        check_bounds(path, text)
        raw = YAML(typ="safe").load(text)
    except ParametersError:
        raise
    except DuplicateKeyError as error:
        where = _position(error)
        # "found duplicate key "seed" with value "1" (original value: "0")"
        detail = str(error.problem).split(" with value")[0].removeprefix("found ")
        raise ParametersError(f"{path}{where}: {detail}; keep one of the two") from None
    except MarkedYAMLError as error:
        where = _position(error)
        detail = "; ".join(part for part in (error.context, error.problem) if part)
        if "unexpected ':'" in detail:
            detail += "; inside braces, put a value that has a colon in quotes"
        raise ParametersError(f"{path}{where}: not valid YAML: {detail}") from None
    except (YAMLError, ValueError, OverflowError) as error:  # e.g. a date that does not exist
        raise ParametersError(f"{path}: not valid YAML: {error}") from None
    if raw is None:
        message = f"{path}: the file is empty; expected the sections run, tracking and cases"
        raise ParametersError(message)
    if not isinstance(raw, dict):
        kind = type(raw).__name__
        message = f"{path}: got a {kind}; expected a mapping with run, tracking and cases"
        raise ParametersError(message)
    return raw


def _position(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
