"""The case studies: one package a kind, each with the modules of ``contract.py``."""
