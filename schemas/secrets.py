"""Keeping keys and passwords out of ``params.yaml``, from where DVC copies them to ``dvc.lock``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticCustomError

_NAME = re.compile("(apikey|key|token|passwo?r?d|pwd|passphrase|secret|credential)s?")
_IN_ADDRESS = re.compile(r"://[^/?#\s]*:[^/?#\s]*@|[?&;](\w*_)?(key|token|password|secret)=")
_OPAQUE = re.compile("(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_-]{32,}")


def without_secrets(options: Any) -> Any:
    """Pass on options none of which looks like a key or a password, as a pydantic validator.

    Returns:
        The options, unchanged.

    Raises:
        PydanticCustomError: Of the type ``secret``, whose value is not to be shown.
    """
    if isinstance(options, Mapping):
        for name, value in options.items():
            if _is_secret(str(name), value):
                expected = "no key or password; set it in the environment, where trackers find it"
                context = {"field": str(name), "expected": expected}
                raise PydanticCustomError("secret", "expected {expected}", context)
    return options


def _is_secret(name: str, value: Any) -> bool:
    # `apiKey`, `api_key` and `api-key` are the same to a reader.
    words = re.split("[^a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower())
    if any(_NAME.fullmatch(word) for word in words):
        return True
    if not isinstance(value, str):
        return False
    return bool(_IN_ADDRESS.search(value) or _OPAQUE.fullmatch(value))
