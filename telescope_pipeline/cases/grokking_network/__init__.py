"""Case study 1b: grokking of a network with enlarged initial weights (Section 4.1, Fig. 4)."""
