"""The scripts of the page, and the policy that lets a browser run them and nothing else."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_STYLES = ("page.css", "charts.css")
# One scope, in which the later ones use what the earlier ones define.
_SCRIPTS = ("numbers.js", "drawing.js", "charts.js", "claims.js", "navigation.js")
# Runs before anything is drawn, so that what needs scripts never flashes up without them.
_EARLY = 'document.documentElement.classList.add("js");'


@dataclass(frozen=True)
class PageCode:
    """What the page carries besides its content.

    Attributes:
        style: All stylesheets.
        early: The script that runs first.
        late: The scripts at the end of the page.
        policy: The Content-Security-Policy: no network, and no code but this.
    """

    style: str
    early: str
    late: tuple[str, ...]
    policy: str


def page_code() -> PageCode:
    """Collect styles and scripts."""
    style = "\n".join(_read(name) for name in _STYLES)
    own = "\n".join(_read(name) for name in _SCRIPTS)
    late = (_vega(), f'(() => {{\n"use strict";\n{own}}})();')
    scripts = " ".join(_source(script) for script in (_EARLY, *late))
    policy = (
        f"default-src 'none'; img-src data:; script-src {scripts}; style-src {_source(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return PageCode(style, _EARLY, late, policy)


@cache
def _vega() -> str:
    """Vega as ``embedChart``, as the converter of pictures carries it; it takes a second to get."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.embedChart = vegaEmbed;")
    # The licence asks to be part of every copy.
    return f"/*\n{_read('vega.LICENSE.txt')}*/\n(() => {{\n{bundle}\n}})();"


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _source(code: str) -> str:
    """What a policy calls an inline script or style, the bytes between its tags."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
