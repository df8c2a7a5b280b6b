"""Layers without a contract: attention, step embedding, dropout, a low-pass filter."""
