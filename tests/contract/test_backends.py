"""Both frameworks implement the Protocols, with the same arguments."""

import importlib
import inspect

import pytest

from secateurs import backends


def list_requirements(protocol):
    return sorted(
        name
        for name, member in vars(protocol).items()
        if inspect.isfunction(member) and not name.startswith("_")
    )


@pytest.mark.parametrize("framework", ["pytorch", "keras"])
@pytest.mark.parametrize(
    ("protocol", "package"),
    [(backends.Backend, "secateurs.{}"), (backends.Repairing, "secateurs.{}.reconstruction")],
)
def test_a_framework_takes_what_it_is_given(framework, protocol, package):
    module = importlib.import_module(package.format(framework))
    for name in list_requirements(protocol):
        wanted = inspect.signature(getattr(protocol, name)).parameters
        taken = inspect.signature(getattr(module, name)).parameters
        named = [n for n, p in wanted.items() if p.kind is not p.VAR_KEYWORD and n != "self"]
        assert [one for one in named if one not in taken] == [], name
        order = [n for n, p in wanted.items() if p.kind is p.POSITIONAL_OR_KEYWORD and n != "self"]
        assert list(taken)[: len(order)] == order, name
