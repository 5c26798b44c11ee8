"""Data sets of the case studies, each in a module of its own, so that one does not load the others.

Generated or shipped inside a package: ``digits``, ``mnist1d``, ``modular``, ``polynomial``.  In a
folder, or downloaded and verified (``files``, ``registry``): ``images`` and ``tabular``.
"""
