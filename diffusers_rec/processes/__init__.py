"""What is corrupted, how much, and where: schedules, processes, sources, timesteps and noising strategies."""
