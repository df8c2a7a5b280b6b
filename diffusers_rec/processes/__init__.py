"""How latents are corrupted: schedules, processes, sources, timestep samplers and noising strategies."""
