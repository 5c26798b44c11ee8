"""Turning the results of a case into runs that a tracker can keep."""
