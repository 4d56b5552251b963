"""What is public is declared, and importing the package imports no framework."""

import importlib
import pkgutil
import subprocess
import sys

import secateurs as sec


def test_every_public_name_is_declared_and_nothing_else():
    public = {
        name
        for name, value in vars(sec).items()
        if not name.startswith("_") and not hasattr(value, "__path__") and not _is_module(value)
    }
    assert public == set(sec.__all__)


def test_every_package_declares_what_it_exports():
    for info in pkgutil.walk_packages(sec.__path__, "secateurs."):
        if not info.ispkg or info.name.startswith("secateurs.keras"):
            continue
        package = importlib.import_module(info.name)
        exported = {
            name
            for name, value in vars(package).items()
            if not name.startswith("_")
            and not _is_module(value)
            and getattr(value, "__module__", "").startswith("secateurs")
            and getattr(value, "__module__", "") != info.name
        }
        assert exported <= set(getattr(package, "__all__", ())), info.name


def test_importing_it_imports_no_framework():
    code = (
        "import sys, secateurs; "
        "print([m for m in ('torch', 'keras', 'tensorflow', 'jax', 'matplotlib', 'sklearn') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _is_module(value):
    return type(value) is type(sys)
