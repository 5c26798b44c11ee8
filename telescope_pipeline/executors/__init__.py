"""Trains the members of a sweep: here, or on the workers of a Dask scheduler."""
