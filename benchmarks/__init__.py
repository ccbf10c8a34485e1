"""Experiments, and the results they left."""
