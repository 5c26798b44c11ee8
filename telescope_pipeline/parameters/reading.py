"""Reading ``params.yaml``: one message per problem, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from telescope_core.errors import ParametersError
from telescope_pipeline.parameters.model import Parameters
from telescope_pipeline.parameters.problems import describe
from telescope_pipeline.schemas.sections import Case


def load_parameters(path: str | Path) -> Parameters:
    """Read and validate a parameter file.

    Args:
        path: The YAML file.

    Returns:
        The validated parameters.

    Raises:
        ParametersError: If the file cannot be read or parsed, or if values are not usable.  There
            is one line per problem, with the dotted path, the value given and what was expected.
    """
    path = Path(path)
    raw = _parse(path, _read(path))
    try:
        return Parameters.model_validate(raw)
    except ValidationError as error:
        problems = describe(error, raw, Parameters)
    lines = "\n".join(f"  {problem}" for problem in problems)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise ParametersError(f"{path}: {count}\n{lines}")


def case_of(parameters: Parameters, name: str) -> Case:
    """Return the case called ``name``.

    Raises:
        ParametersError: If there is no such case; the message lists those there are.
    """
    if name not in parameters.cases:
        known = ", ".join(sorted(parameters.cases))
        raise ParametersError(f"no case is called {name!r}; params.yaml has {known}")
    return parameters.cases[name]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = f"{path}: no such file; name one with --params or go to the project's folder"
        raise ParametersError(message) from None
    except UnicodeDecodeError as error:
        raise ParametersError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ParametersError(f"{path}: cannot be read: {error.strerror}") from None


def _parse(path: Path, text: str) -> dict[Any, Any]:
    # The library DVC uses, so that both read the same numbers; pure Python reports duplicate keys.
    # DVC itself parses in C, which is stricter: a colon inside braces wants quotes.
    try:
        raw = YAML(typ="safe", pure=True).load(text)
        YAML(typ="safe").load(text)
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
    except YAMLError as error:
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
