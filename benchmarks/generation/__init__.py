"""Programs that measure what a joint model adds to a next-item model: several items at once, gaps, samples."""
