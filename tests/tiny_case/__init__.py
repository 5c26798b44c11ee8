"""A kind of case that trains in milliseconds; all of it lies in this folder."""
