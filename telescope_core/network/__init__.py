"""The user's model: evaluated at any parameters, and left as it was."""

from telescope_core.network.function import Network, outside_inference_mode
from telescope_core.network.state import NetworkState
from telescope_core.network.streams import own_streams

__all__ = ["Network", "NetworkState", "outside_inference_mode", "own_streams"]
