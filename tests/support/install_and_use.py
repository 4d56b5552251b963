"""Installs each built file into an empty environment, and uses it there.

``python tests/support/install_and_use.py DIRECTORY``: ``make wheel`` builds into it first.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

USE = """
import sys, secateurs as sec
assert sec.__file__.startswith(sys.prefix), sec.__file__
assert sec.__version__ in sys.argv[1], (sec.__version__, sys.argv[1])
assert sec.Cut.from_json(sec.Cut().to_json()) == sec.Cut()
from importlib.resources import files
assert files("secateurs").joinpath("py.typed").is_file()
"""


def install_and_use(built: Path) -> None:
    """In an environment that has nothing but pip."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        scripts = Path(folder) / ("Scripts" if sys.platform == "win32" else "bin")

        def run(*command: str) -> str:
            done = subprocess.run(
                [str(scripts / command[0]), *command[1:]],
                capture_output=True,
                text=True,
                check=False,
                cwd=folder,
                env={"PATH": str(scripts)},
            )
            if done.returncode:
                sys.exit(f"{built.name}: {' '.join(command)}: {done.stdout}{done.stderr}")
            return done.stdout

        run("python", "-m", "pip", "install", "--quiet", str(built))
        run("python", "-c", USE, built.name)
        assert "secateurs" in run("secateurs", "--version")
        assert "apoz" in run("secateurs", "criteria")


if __name__ == "__main__":
    files = sorted(path for path in Path(sys.argv[1]).resolve().iterdir() if path.is_file())
    kinds = {path.suffix for path in files}
    if kinds != {".whl", ".gz"}:
        sys.exit(f"expected a wheel and a source archive in {sys.argv[1]}; received {kinds}")
    for path in files:
        install_and_use(path)
        sys.stdout.write(f"{path.name}: installed into an empty environment, and used\n")
