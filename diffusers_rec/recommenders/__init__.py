"""Recommenders: ``DiffRec``, ensembles, and what they need to serve."""
