"""The diffusion recommenders of other papers, as presets, under one protocol and one audit.

:mod:`~benchmarks.field.settings` lists the models and their budgets. ``published.csv`` contains the printed rows, each
with the split that it was measured on.
"""
