"""Pictures small enough to be carried inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from telescope_core.errors import ArtifactError
from telescope_pipeline.store import files

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS = 255
_WHITE = 253


@dataclass(frozen=True)
class Picture:
    """A PNG in base64, with its size in pixels."""

    data: str
    width: int
    height: int


def embedded(path: Path) -> Picture:
    """Read a picture for the page.

    Plots have few colours.  With a palette they take a third of the space and look the same.

    Args:
        path: A PNG.

    Returns:
        The picture with a palette, or as it is where that is smaller.

    Raises:
        ArtifactError: If the file is missing or not a PNG.
    """  # noqa: DOC501  # caught below
    from PIL import Image, UnidentifiedImageError

    content = files.read_bytes(path)
    try:
        if not content.startswith(_SIGNATURE):
            raise UnidentifiedImageError
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            reduced = image.convert("RGBA").quantize(
                _COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
            )
    except (OSError, ValueError, SyntaxError):
        raise ArtifactError(f"{path}: not a PNG picture; run the plot stage again") from None
    # The octree leaves white a shade too dark, which would show beside the page's own.
    palette = reduced.getpalette("RGBA") or []
    reduced.putpalette([255 if part >= _WHITE else part for part in palette], "RGBA")
    stream = io.BytesIO()
    reduced.save(stream, "PNG")
    smaller = min(content, stream.getvalue(), key=len)
    return Picture(base64.b64encode(smaller).decode(), width, height)
