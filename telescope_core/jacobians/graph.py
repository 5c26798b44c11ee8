"""The graph that autograd has recorded behind some outputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def graph_of(outputs: Tensor) -> Iterator[torch.autograd.graph.Node]:
    """Every node of the graph behind some outputs, each once."""
    waiting = [outputs.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        yield node
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                waiting.append(following)
