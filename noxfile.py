"""What is supported, tried: ``nox`` runs the tests on each of these; ``nox -l`` lists them.

Where a combination cannot be installed, pip says so in that session. All but the oldest versions
take PyTorch as ``constraints.txt`` says.
"""

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
OLDEST = ["torch==2.6.*", "keras==3.5.*", "numpy==1.26.*"]
NEWEST = ["--constraint", "constraints.txt", "torch", "keras", "numpy>=2"]


@nox.session(python=PYTHONS)
@nox.parametrize("versions", [nox.param(OLDEST, id="oldest"), nox.param(NEWEST, id="newest")])
def tests(session: nox.Session, versions: list[str]) -> None:
    """The test suite, in two processes."""
    session.install(*versions, "-e", ".[torch,keras,dev,bench,ray]")
    session.run("pytest", "-n", "2", *session.posargs, env={"KERAS_BACKEND": "torch"})


@nox.session(python=PYTHONS[:1])
@nox.parametrize("backend", ["tensorflow", "jax"])
def backends(session: nox.Session, backend: str) -> None:
    """The Keras side on its other backends."""
    constrained = ["--constraint", "constraints.txt"]
    session.install(*constrained, "-e", ".[torch,keras,dev]", "tensorflow-cpu", "jax")
    session.run("pytest", "tests/keras", *session.posargs, env={"KERAS_BACKEND": backend})


@nox.session(python=PYTHONS)
def wheel(session: nox.Session) -> None:
    """The wheel and the source archive, each installed into an empty environment and used."""
    folder = session.create_tmp()
    session.install("build")
    session.run("python", "-m", "build", "--outdir", folder)
    session.run("python", "tests/support/install_and_use.py", folder)
