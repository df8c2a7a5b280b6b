"""Bridges to libraries that the core does not need. Import each by name; each names the extra that brings it."""
