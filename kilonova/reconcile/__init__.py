"""Loops that compare what should be with what is, explain the difference, and repair what is safe to repair."""
