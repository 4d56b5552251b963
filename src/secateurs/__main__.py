"""``python -m secateurs``, and ``accelerate launch -m secateurs`` for several processes."""

from secateurs.cli import run_from_shell

if __name__ == "__main__":
    run_from_shell()
