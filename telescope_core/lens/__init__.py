"""The lens: attaches the telescoping model to a training loop."""

from __future__ import annotations

from telescope_core.lens.lens import TelescopeLens

__all__ = ["TelescopeLens"]
