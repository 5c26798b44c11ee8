"""Keeping keys and passwords out of ``params.yaml``, ``dvc.lock`` and messages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

HIDDEN = "a value that is not shown"

_NAME = re.compile("(apikey|key|token|passwo?r?d|pwd|passphrase|secret|credential)s?")
_IN_ADDRESS = re.compile(r"://[^/?#\s]*:[^/?#\s]*@|[?&;](\w*_)?(key|token|password|secret)=")
_OPAQUE = re.compile("(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_-]{32,}")

# A message may hide more than a file may not hold.
_ISSUED = re.compile(
    "(?<![A-Za-z0-9])(sk-|gh[a-z]_|github_pat_|glpat-|hf_|xox[a-z]-|AKIA|eyJ|wandb_v)[A-Za-z0-9_.-]{8,}"
)
_RANDOM = re.compile(r"(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9+/]{20,}={0,2}")
_ASSIGNED = re.compile(r"([\w-]+)['\"]?\s*[=:]\s*\S")

# Shorter values are words such as `none`, whose absence would tell more than they do.
_SHORTEST = 6
# The current folder.
_NOT_SECRET = ("PWD", "OLDPWD")


def without_secrets(options: Any) -> Any:
    """Pass on options none of which looks like a key or a password, as a pydantic validator.

    Returns:
        The options, unchanged.

    Raises:
        PydanticCustomError: Of the type ``secret``, whose value is not to be shown.
    """
    if isinstance(options, Mapping):
        for name, value in options.items():
            if is_secret_name(str(name)) or _is_secret(value):
                expected = "no key or password; set it in the environment, where trackers find it"
                context = {"field": str(name), "expected": expected}
                raise PydanticCustomError("secret", "expected {expected}", context)
    return options


def is_secret_name(name: str) -> bool:
    """Whether a value of this name is a key or a password, e.g. ``apiKey`` or ``WANDB_API_KEY``."""
    # `apiKey`, `api_key` and `api-key` are the same to a reader.
    words = re.split("[^a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return any(_NAME.fullmatch(word) for word in words)


def masked(value: Any) -> Any:
    """A value for a message: what looks like a secret is replaced, also in lists and mappings."""
    if isinstance(value, Mapping):
        return {
            masked(name): HIDDEN if is_secret_name(str(name)) else masked(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(inner) for inner in value]
    return HIDDEN if _looks_secret(value) else value


def without_environment(text: str) -> str:
    """A text in which values of environment variables with secret names are replaced by these."""
    for value, name in _environment():
        text = text.replace(value, f"<{name}>")
    return text


def _environment() -> Iterator[tuple[str, str]]:
    found = {
        form: name
        for name, value in os.environ.items()
        if name not in _NOT_SECRET and is_secret_name(name)
        # As it is, as `repr` shows it, and line by line, as keys in blocks are quoted.
        for form in (value, repr(value)[1:-1], *value.splitlines())
        if len(form.strip()) >= _SHORTEST
    }
    # The longest first: one may be a part of another.
    yield from sorted(found.items(), key=lambda pair: -len(pair[0]))


def _is_secret(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return bool(_IN_ADDRESS.search(value) or _OPAQUE.fullmatch(value))


def _looks_secret(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return (
        _is_secret(value)
        or any(pattern.search(value) for pattern in (_ISSUED, _RANDOM))
        or any(is_secret_name(name) for name in _ASSIGNED.findall(value))
    )
