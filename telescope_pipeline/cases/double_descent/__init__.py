"""Case study 1a: double descent in width and effective parameters (Section 4.1, Fig. 3)."""
