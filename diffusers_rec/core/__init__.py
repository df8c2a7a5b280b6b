"""Components by name, randomness, errors and files: what knows nothing of models."""
