"""Case study 3: weight averaging of networks spawned from one (Section 4.3, Fig. 6)."""
