"""Case study 1b: a wide quadratic network groks polynomial regression (Section 4.1, Fig. 4)."""
