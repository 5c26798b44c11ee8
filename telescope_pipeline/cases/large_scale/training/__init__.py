"""How a member of the case is trained."""
