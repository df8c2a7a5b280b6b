"""Foundations that do not depend on models: components by name, random numbers, errors and files."""
