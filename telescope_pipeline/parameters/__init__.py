"""``params.yaml``: read, checked, and every problem named."""
