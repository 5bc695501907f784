"""Assembles and starts processes: the whole cloud in one, later each role by itself."""
