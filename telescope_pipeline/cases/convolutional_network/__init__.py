"""Effective parameters of a small convolutional network with ten outputs, layer by layer."""
