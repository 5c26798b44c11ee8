"""The user's own model, data, loss and optimizer, named in the parameter file."""
