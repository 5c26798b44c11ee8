"""The case studies: one package a kind, each with the five modules of ``contract.py``."""
