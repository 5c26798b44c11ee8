"""``telescope demo``: a network that groks, watched while it trains, in well under a minute."""

from telescope_pipeline.demo.run import demo

__all__ = ["demo"]
