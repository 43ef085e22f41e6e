"""Prefect flows: they order the work and hold none of it."""
