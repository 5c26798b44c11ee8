"""The scripts of the page, and the policy that lets a browser run them and nothing else."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from telescope_pipeline.report.vendor import vendored

_HERE = Path(__file__).resolve().parent
_STYLES = ("page.css", "charts.css")
# One scope, in which the later ones use what the earlier ones define.
_SCRIPTS = (
    "numbers.js",
    "chart-scales.js",
    "chart-panel.js",
    "chart-figure.js",
    "chart-table.js",
    "claims.js",
    "navigation.js",
)
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
    """Collect styles and scripts.

    Raises:
        ArtifactError: If a vendored file is not the released one.
    """
    style = "\n".join([vendored("uPlot.min.css"), *(_read(name) for name in _STYLES)])
    own = "\n".join(_read(name) for name in _SCRIPTS)
    # The licence asks to be part of every copy.
    others = f"/*\n{vendored('uPlot.LICENSE.txt')}*/\n{vendored('uPlot.iife.min.js')}"
    late = (others, f'(() => {{\n"use strict";\n{own}}})();')
    scripts = " ".join(_source(script) for script in (_EARLY, *late))
    policy = (
        f"default-src 'none'; img-src data:; script-src {scripts}; style-src {_source(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return PageCode(style, _EARLY, late, policy)


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _source(code: str) -> str:
    """What a policy calls an inline script or style, the bytes between its tags."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
