"""Integrations with optional libraries. Import each by name; each states the extra that installs its library."""
