"""The command line: one command a file, each with ``arguments(parser)`` and ``run(args) -> exit code``."""
