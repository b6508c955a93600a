"""Measurements whose result is a ratio between runs on the same host."""
