"""Converts a softmax transformer into a GMA model with a memory of fixed size (GMA.md 11.1)."""
