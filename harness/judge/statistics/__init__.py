"""Exact and resampling tests; they know numbers, not models."""
