"""Texts of errors as a reader can bear them: bounded, in one line, and without secrets."""

from __future__ import annotations

from telescope_pipeline.schemas.secrets import without_environment

LONGEST = 2000
"""Characters of a line of a message."""

# What an exception says, so that there is room for where it was raised.
_LONGEST_TEXT = 1000
_MOST_LINES = 60


def text_of(error: BaseException) -> str:
    """What an exception says, in one line; also that of one whose text cannot be made."""
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except BaseException as worse:  # code of the user's, which may as well end the process
        text = f"a text that cannot be made: {type(worse).__name__}"
    return shortened(" ".join(without_environment(text).split()), _LONGEST_TEXT)


def shortened(text: str, longest: int = LONGEST) -> str:
    """Leave out the middle of a text that is too long."""
    if len(text) <= longest:
        return text
    note = f" ... ({len(text)} characters in all) ... "
    room = longest - len(note)
    return text[: room - room // 4] + note + text[len(text) - room // 4 :]


def presentable(text: str) -> str:
    """A message of many lines without secrets, with lines of bounded number and length."""
    lines = [shortened(line) for line in without_environment(text).split("\n")]
    if len(lines) <= _MOST_LINES:
        return "\n".join(lines)
    return "\n".join([*lines[:_MOST_LINES], f"  and {len(lines) - _MOST_LINES} more lines"])
