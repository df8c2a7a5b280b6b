"""Randomised campaigns against the library: damaged files, kills, rival writers, bad arguments, threads.

A trial passes when the library answers with a clear error or as if nothing had been done to it. Everything random
follows from the campaign, the seed and the trial's number.
"""
