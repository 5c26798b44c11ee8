"""Training sets of any size, streamed from disk: what following a step costs, and what is seen."""
