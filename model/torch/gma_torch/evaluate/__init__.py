"""Held-out loss of models by position, samples, and a recall probe."""
