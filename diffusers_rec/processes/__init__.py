"""What is corrupted, how much, and where: schedules, timesteps and noising strategies."""
