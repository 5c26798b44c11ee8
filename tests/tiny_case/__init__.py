"""A kind of case that trains in milliseconds: it stands in for ``double_descent`` in tests."""
