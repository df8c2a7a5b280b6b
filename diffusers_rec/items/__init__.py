"""Items and latents: embeddings, heads, negatives and the choice of items to rank."""
