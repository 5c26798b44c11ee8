"""How well the telescoping model approximates the network (Section 3, Fig. 2)."""
