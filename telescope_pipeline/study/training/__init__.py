"""How the networks of the cases are trained: one loop, resumable to the bit."""
