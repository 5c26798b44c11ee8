"""Turns pydantic's errors into lines for the person who edits ``params.yaml``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

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

_MISSING = object()
# Names of the fields that tell the branches of a union apart.
_DISCRIMINATORS = ("kind", "name", "source")
_LONGEST_VALUE = 60


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
    for detail in error.errors(include_url=False, include_input=False):
        keys, tags = _locate(detail["loc"], raw, model)
        ctx = detail.get("ctx", {})
        if detail["type"] == "missing":
            path = _dotted(keys)
            missing.append((path, f"{path}: missing; expected {_of_field(model, keys, tags)}"))
            continue
        if detail["type"] in {"combination", "secret"}:
            keys = [*keys, *str(ctx["field"]).split(".")]
        if detail["type"] in {"union_tag_invalid", "union_tag_not_found"}:
            keys = [*keys, str(ctx["discriminator"]).strip("'")]
        path = _dotted(keys)
        if detail["type"] == "extra_forbidden":
            known = _fields(model, keys[:-1], tags)
            line, match = _unknown_key(path, keys[-1], _value(raw, keys), known)
            if match is not None:
                misspelt.add(_dotted([*keys[:-1], match]))
        elif detail["type"] == "union_tag_not_found":
            choices = _tag_choices(_annotation(model, keys[:-1], tags), str(keys[-1]))
            given = _value(raw, keys[:-1])
            line = _missing_tag(path, str(keys[-1]), choices, given)
        elif detail["type"] == "secret":
            line = f"{path}: got a value that is not shown; expected {ctx['expected']}"
        else:
            line = _wrong_value(path, _value(raw, keys), _expectation(detail))
        lines.setdefault(path, []).append(line)
    for path, line in missing:
        if path not in misspelt:
            lines.setdefault(path, []).append(line)
    return [line for path in lines for line in _merged(lines[path])]


def _merged(lines: Sequence[str]) -> Iterator[str]:
    # A field that may be one of several types fails once per type: one problem, one line.
    head, _, first = lines[0].partition("; expected ")
    rest = [line.partition("; expected ")[2] for line in lines[1:]]
    choices = list(dict.fromkeys([first, *rest]))
    yield f"{head}; expected {' or '.join(choices)}" if first else lines[0]


def _locate(
    loc: Sequence[int | str], raw: Any, model: type[BaseModel]
) -> tuple[list[int | str], list[str]]:
    """Split pydantic's location into keys of the file and tags of the unions on the way."""
    keys: list[int | str] = []
    tags: list[str] = []
    here = raw
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if isinstance(here, Mapping):
            is_tag = isinstance(part, str) and part not in here
            # A tag may be left out of the file where there is a default: then the model knows it.
            if is_tag and (part in _tags(here) or part in _all_tags(model, keys, tags)):
                tags.append(str(part))
                continue
            if part == "[key]":
                continue
            keys.append(part)
            here = here.get(part, _MISSING)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            keys.append(part)
            here = here[part]
        elif last and here is not _MISSING and isinstance(part, str):
            tags.append(part)  # the name of a union's branch, not a key
        else:
            keys.append(part)
            here = _MISSING
    return keys, tags


def _tags(mapping: Mapping[Any, Any]) -> list[Any]:
    return [mapping.get(name) for name in _DISCRIMINATORS]


def _all_tags(model: type[BaseModel], keys: Sequence[int | str], tags: Sequence[str]) -> list[str]:
    """The tags of the branches at a place of the file, if it takes one of several mappings."""
    annotation = _annotation(model, keys, tags)
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, UnionType):
        return []
    return [tag for name in _DISCRIMINATORS for tag in _tag_choices(annotation, name)]


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
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text or "the file"


def _wrong_value(path: str, value: Any, expected: str) -> str:
    given = "missing" if value is _MISSING else f"got {_shown(value)}"
    return f"{path}: {given}; expected {expected}"


def _unknown_key(
    path: str, key: int | str, value: Any, known: Sequence[str]
) -> tuple[str, str | None]:
    close = difflib.get_close_matches(str(key), known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    expected = f"one of {', '.join(known)}" if known else "no such key"
    line = f"{path}: unknown key (value {_shown(value)}); expected {expected}{hint}"
    return line, close[0] if close else None


def _missing_tag(path: str, key: str, choices: Sequence[str], given: Any) -> str:
    keys = [str(name) for name in given] if isinstance(given, Mapping) else []
    close = difflib.get_close_matches(key, keys, n=1)
    hint = f"; is {close[0]} a misspelt {key}?" if close else ""
    return f"{path}: missing; expected one of {', '.join(choices)}{hint}"


def _shown(value: Any) -> str:
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


def _of_field(model: type[BaseModel], keys: Sequence[int | str], tags: Sequence[str]) -> str:
    """Say what the missing last key should hold."""
    annotation = _descend(model, keys, tags)
    origin = get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a mapping with {', '.join(annotation.model_fields)}"
    if origin is list:
        return "a list"
    if origin is dict:
        return "a mapping"
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    return names.get(annotation, "a value") if isinstance(annotation, type) else "a value"


def _fields(model: type[BaseModel], keys: Sequence[int | str], tags: Sequence[str]) -> list[str]:
    found = _descend(model, keys, tags)
    if isinstance(found, type) and issubclass(found, BaseModel):
        return list(found.model_fields)
    return []


def _descend(model: Any, keys: Sequence[int | str], tags: Sequence[str]) -> Any:
    """Follow keys through the annotations of the models; unions are decided by the tags."""
    return _bare(_annotation(model, keys, tags), tags)


def _annotation(model: Any, keys: Sequence[int | str], tags: Sequence[str]) -> Any:
    here = model
    for key in keys:
        here = _bare(here, tags)
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(key))
            here = None if field is None else field.annotation
        elif get_origin(here) in (list, dict):
            here = get_args(here)[-1]
        else:
            return None
    return here


def _tag_choices(annotation: Any, discriminator: str) -> list[str]:
    """List the values that tell the branches of a union apart."""
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return [
            choice
            for branch in get_args(annotation)
            for choice in _tag_choices(branch, discriminator)
        ]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(discriminator)
        return [] if field is None else [str(choice) for choice in get_args(field.annotation)]
    return []


def _bare(annotation: Any, tags: Sequence[str]) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    branches = [_bare(branch, tags) for branch in get_args(annotation)]
    for branch in branches:
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            allowed = [
                get_args(branch.model_fields[name].annotation)
                for name in _DISCRIMINATORS
                if name in branch.model_fields
            ]
            if any(set(choices) & set(tags) for choices in allowed):
                return branch
    return next((b for b in branches if b is not type(None)), None)
