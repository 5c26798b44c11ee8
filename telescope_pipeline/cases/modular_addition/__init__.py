"""A small transformer groks modular addition (after Power et al. 2022, Nanda et al. 2023)."""
