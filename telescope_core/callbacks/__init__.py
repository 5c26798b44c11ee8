"""The lens in trainings that a framework drives.

``telescope_core.callbacks.lightning`` has the callback for PyTorch Lightning and
``telescope_core.callbacks.transformers`` the one for the Hugging Face Trainer; each imports its
framework when it is imported itself.
"""

from telescope_core.network.indexed import IndexedDataset

__all__ = ["IndexedDataset"]
