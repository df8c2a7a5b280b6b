"""Between items and latents: embeddings, heads, negatives, and rankings."""
