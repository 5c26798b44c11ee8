"""Hands the results of a case to a tracker, and says what became of them."""
