"""Section 5: what momentum, weight decay, adaptive rates and an output sigmoid do to updates."""
