"""Networks of the case studies."""
