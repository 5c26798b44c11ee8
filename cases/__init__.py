"""The case studies: one package a kind, each with the four modules of ``contract.py``."""
