"""The paper's tables, each a program that trains, evaluates and writes its result beside the paper's own numbers.

:mod:`~benchmarks.paper.trial` defines a trial as data and the functions that vary it, :mod:`~benchmarks.paper.settings`
contains the settings, and :mod:`~benchmarks.paper.running` trains and evaluates a trial. ``published.csv`` contains the
published rows.
"""
