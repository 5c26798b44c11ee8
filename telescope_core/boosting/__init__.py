"""Smoother, effective parameters and kernel norms of fitted gradient boosting, round by round.

Reads scikit-learn's two gradient boosting regressors, XGBoost's and LightGBM's (the extra
``boosting``).  Nothing of these libraries, nor torch, is imported before a model is given.
"""

from telescope_core.boosting.boosting_lens import BoostingLens

__all__ = ["BoostingLens"]
