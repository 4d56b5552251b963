"""The command line: ``secateurs run | prune | compare | inspect | ...``."""

from secateurs.cli.application import ExitCode, main, run_from_shell

__all__ = ["ExitCode", "main", "run_from_shell"]
