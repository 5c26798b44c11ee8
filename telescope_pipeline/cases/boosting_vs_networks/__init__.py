"""Case study 2: gradient boosting against networks on tables (Section 4.2, Figs. 5 and 14)."""
