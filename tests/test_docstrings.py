"""Every public verb has an example in its docstring, and the example runs."""

import doctest
import inspect
import re
from html import unescape

import pytest
import torch

import secateurs as sec
import secateurs.data
import secateurs.models
from secateurs import arguments, formatting
from secateurs.models import preprocessing
from secateurs.planning import uniform

VERBS = sorted(n for n in sec.__all__ if n[0].islower() and callable(getattr(sec, n)))
OTHERS = {
    "LearningTask": sec.LearningTask,
    "renormalise": secateurs.data.renormalise,
    "preprocessing_of": preprocessing.preprocessing_of,
    "format_value": arguments.format_value,
    "notebook_html": formatting.notebook_html,
    "make_uniform": uniform.make_uniform,
}


@pytest.mark.parametrize("name", [*VERBS, *OTHERS])
def test_its_example_runs(name):
    torch.manual_seed(0)
    function = OTHERS.get(name) or getattr(sec, name)
    module = __import__(function.__module__, fromlist=["_"])
    examples = doctest.DocTestFinder(recurse=False).find(
        function, name, globs=dict(vars(module)), module=False
    )
    assert examples[0].examples, f"{name} has no example"
    docstring = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in examples:
        runner.run(example, out=docstring.append)
    if "too noisy to time" in "".join(docstring):
        pytest.skip("other work on this machine: nothing can be timed, which is what was said")
    assert runner.failures == 0, "".join(docstring)


@pytest.mark.parametrize("name", VERBS)
def test_every_argument_is_described(name):
    described = inspect.getdoc(getattr(sec, name))
    missing = [
        argument
        for argument in inspect.signature(getattr(sec, name)).parameters
        if not re.search(rf"\b{argument}\b", described)
    ]
    assert missing == []


def test_a_notebook_shows_what_print_shows():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    network = sec.trace(model, torch.zeros(1, 4))
    result = sec.prune(model, torch.zeros(1, 4), amount=0.5)
    for shown, plain in (
        (network, str(network)),
        (result.cut, result.cut.explain()),
        (result.report, str(result.report)),
    ):
        page = shown._repr_html_()
        assert page.startswith("<pre")
        assert page.endswith("</pre>")
        assert unescape(page).split(">", 1)[1].startswith(plain.splitlines()[0])


def test_the_package_says_its_version_and_that_it_is_typed():
    from importlib.metadata import version
    from importlib.resources import files

    assert sec.__version__ == version("secateurs")
    assert files("secateurs").joinpath("py.typed").is_file()
