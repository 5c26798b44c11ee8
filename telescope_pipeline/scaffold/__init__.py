"""``telescope init``: a small project around a model of one's own."""

from telescope_pipeline.scaffold.create import create

__all__ = ["create"]
