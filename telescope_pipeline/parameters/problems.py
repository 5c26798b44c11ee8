"""Turns pydantic's errors into lines for the person who edits ``params.yaml``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from telescope_pipeline.parameters.kinds import KINDS
from telescope_pipeline.schemas.messages import shortened
from telescope_pipeline.schemas.secrets import HIDDEN, is_secret_name, masked
from telescope_pipeline.schemas.sections import Case

_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "none_required": "null",
}
_NAMES = {int: "an integer", float: "a number", str: "text", bool: "true or false"}

_MISSING = object()
# Names of the fields that tell the branches of a union apart.
_DISCRIMINATORS = ("kind", "name", "source")
_LONGEST_VALUE = 60
_LONGEST_KEY = 80
_MOST = 50


def describe(error: ValidationError, raw: Any, model: type[BaseModel]) -> list[str]:
    """Describe each problem in a line.

    Args:
        error: What pydantic raised for ``model.model_validate(raw)``.
        raw: The parsed file.
        model: The model of the whole file.

    Returns:
        Lines such as ``cases.a.lens.stride: got -1; expected a number of at least 1``, in the
        order of the file's sections.  A missing key that was only misspelt has no line of its own.
    """
    lines: dict[str, list[str]] = {}
    misspelt: set[str] = set()
    missing: list[tuple[str, str]] = []
    details = error.errors(include_url=False, include_input=False)
    for detail in details[:_MOST]:
        keys, holder, annotation = _follow(detail["loc"], raw, model)
        kind, ctx = detail["type"], detail.get("ctx", {})
        if kind == "missing":
            path = _dotted(keys)
            missing.append((path, f"{path}: missing; expected {_of_field(annotation)}"))
            continue
        if kind in {"combination", "secret"}:
            field = ctx["field"]
            keys = [*keys, *(field.split(".") if isinstance(field, str) else field)]
        if kind in {"union_tag_invalid", "union_tag_not_found"}:
            keys = [*keys, str(ctx["discriminator"]).strip("'")]
        path = _dotted(keys)
        if kind == "extra_forbidden":
            known = list(holder.model_fields) if _is_model(holder) else []
            line, match = _unknown_key(path, keys, _shown(_value(raw, keys), keys), known)
            if match is not None:
                misspelt.add(_dotted([*keys[:-1], match]))
        elif kind == "union_tag_not_found":
            tags = [tag for branch in _branches(annotation) for tag in _tags(branch, keys[-1:])]
            line = _missing_tag(path, str(keys[-1]), tags, _value(raw, keys[:-1]))
        elif kind == "secret":
            line = f"{path}: got {HIDDEN}; expected {ctx['expected']}"
        else:
            line = _wrong_value(path, _shown(_value(raw, keys), keys), _expectation(detail))
        lines.setdefault(path, []).append(line)
    for path, line in missing:
        if path not in misspelt:
            lines.setdefault(path, []).append(line)
    found = [line for path in lines for line in _merged(lines[path])]
    if len(details) > _MOST:
        found.append(f"and {len(details) - _MOST} more, to be told when these are mended")
    return found


def _merged(lines: Sequence[str]) -> Iterator[str]:
    # A field that may be one of several types fails once per type: one problem, one line.
    head, _, first = lines[0].partition("; expected ")
    rest = [line.partition("; expected ")[2] for line in lines[1:]]
    choices = list(dict.fromkeys([first, *rest]))
    yield f"{head}; expected {' or '.join(choices)}" if first else lines[0]


def _follow(
    loc: Sequence[int | str], raw: Any, model: type[BaseModel]
) -> tuple[list[int | str], Any, Any]:
    """Follow pydantic's location through the file and through the models.

    Returns:
        The keys, without the names of branches of unions between them; the model that holds the
        last key; and the annotation of its field, None if it has none.
    """
    keys: list[int | str] = []
    here: Any = raw
    holder: Any = None
    annotation: Any = model
    for part in loc:
        branches = _branches(annotation)
        if len(branches) > 1:
            # Pydantic names the branch it tried, by the value that tells it apart or by its type.
            annotation = next((each for each in branches if part in _tags(each)), None)
        elif part != "[key]":
            (holder,) = branches
            if holder is Case:
                holder = KINDS[here["kind"]]
            annotation = _inside(holder, part)
            keys.append(part)
            here = _value(here, [part])
    return keys, holder, annotation


def _inside(annotation: Any, key: int | str) -> Any:
    """The annotation of an entry of a mapping or a list."""
    if _is_model(annotation):
        field = annotation.model_fields.get(str(key))
        return None if field is None else field.annotation
    return get_args(annotation)[-1] if get_origin(annotation) in (list, dict) else None


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _branches(annotation: Any) -> list[Any]:
    """The alternatives of a union, null apart, or the one there is."""
    annotation = _bare(annotation)
    if get_origin(annotation) not in (Union, UnionType):
        return [annotation]
    found = [branch for each in get_args(annotation) for branch in _branches(each)]
    return [branch for branch in found if branch is not type(None)]


def _tags(branch: Any, names: Sequence[int | str] = _DISCRIMINATORS) -> list[str]:
    """The values of a model's fields that tell it from the other branches of a union."""
    if branch is Case:
        return list(KINDS) if "kind" in names else []
    fields = branch.model_fields if _is_model(branch) else {}
    found = [get_args(fields[str(name)].annotation) for name in names if name in fields]
    return [str(choice) for choices in found for choice in choices]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _value(raw: Any, keys: Sequence[int | str]) -> Any:
    for key in keys:
        try:
            raw = raw[key]
        except (KeyError, IndexError, TypeError):
            return _MISSING
    return raw


def _dotted(keys: Sequence[int | str]) -> str:
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{_key(key)}" if text else _key(key)
    return text or "the file"


def _key(key: str) -> str:
    return shortened(str(masked(str(key))), _LONGEST_KEY)


def _wrong_value(path: str, shown: str | None, expected: str) -> str:
    given = "missing" if shown is None else f"got {shown}"
    return f"{path}: {given}; expected {expected}"


def _unknown_key(
    path: str, keys: Sequence[int | str], shown: str | None, known: Sequence[str]
) -> tuple[str, str | None]:
    close = difflib.get_close_matches(str(keys[-1]), known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    expected = f"one of {', '.join(known)}" if known else "no such key"
    value = "not shown" if shown == HIDDEN else shown
    line = f"{path}: unknown key (value {value}); expected {expected}{hint}"
    return line, close[0] if close else None


def _missing_tag(path: str, key: str, choices: Sequence[str], given: Any) -> str:
    keys = [str(name) for name in given] if isinstance(given, Mapping) else []
    close = difflib.get_close_matches(key, keys, n=1)
    hint = f"; is {close[0]} a misspelt {key}?" if close else ""
    return f"{path}: missing; expected one of {', '.join(choices)}{hint}"


def _shown(value: Any, keys: Sequence[int | str]) -> str | None:
    """A value of the file for a message, None if it is missing; secrets do not show."""
    if value is _MISSING:
        return None
    # Names of cases are free: one about tokens has no secrets for that.
    names = keys[2:] if keys[:1] == ["cases"] else keys
    value = HIDDEN if any(is_secret_name(str(name)) for name in names) else masked(value)
    if value == HIDDEN:
        return HIDDEN
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _expectation(detail: ErrorDetails) -> str:
    kind, ctx = detail["type"], detail.get("ctx", {})
    if kind == "union_tag_invalid":
        choices = [tag.strip().strip("'") for tag in str(ctx["expected_tags"]).split(",")]
        close = difflib.get_close_matches(str(ctx["tag"]), choices, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"one of {', '.join(choices)}{hint}"
    if kind == "too_short" and ctx.get("min_length") == 1:
        return "at least one entry"
    if kind in _EXPECTED:
        return _EXPECTED[kind].format(**ctx)
    return detail["msg"].removeprefix("Input should be ").removeprefix("expected ")


def _of_field(annotation: Any) -> str:
    """Say what a missing key should hold."""
    bare = _branches(annotation)[0]
    if _is_model(bare):
        return f"a mapping with {', '.join(bare.model_fields)}"
    kinds = {list: "a list", dict: "a mapping"}
    return kinds.get(get_origin(bare)) or _NAMES.get(bare, "a value")
