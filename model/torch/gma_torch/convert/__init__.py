"""Converts a softmax transformer into a GMA model with a memory of fixed size (MATH.md 11.1)."""
