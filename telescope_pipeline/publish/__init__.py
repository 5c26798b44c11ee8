"""Hands the results of a case to a tracker, and says what became of them.

``publication`` publishes a case: ``results`` reads what the stages before left, ``records`` makes
runs of it, ``delivery`` hands them to any tracker through a ``worker`` in a process of its own, and
``receipts`` says where they are.  ``wandb`` is what Weights & Biases has besides: folders of runs
that wait, sending and reading back, lineage, pages.
"""
