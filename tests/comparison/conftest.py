"""A comparison small enough to run many times."""

import pytest

from secateurs.comparison import (
    Comparison,
    JobRunner,
    SerialExecutor,
    learner_factory,
    run_comparison,
)
from secateurs.settings.study import Task
from secateurs.settings.training import Training


def settings_of(**changes):
    return Comparison(
        **{
            "task": Task(
                model="vanilla_cnn",
                model_options={"width": 4, "hidden": 12},
                data="digits",
                data_options={"limit": 200, "seed": 0},
                by_name=True,
            ),
            "training": Training(batches=6, fine_tune_batches=3, batch_size=32, learning_rate=0.02),
            "strategies": ("l1", "fisher@network"),
            "amounts": (0.3, 0.6),
            "seeds": 2,
        }
        | changes
    )


def compare(directory, comparison=None, **options):
    comparison = comparison or settings_of()
    contest = JobRunner(comparison, learner_factory(comparison), options.get("pruners", {}))
    return run_comparison(comparison, directory, SerialExecutor(contest), **options)


@pytest.fixture(scope="session")
def comparison_run(tmp_path_factory):
    """(results, directory) of a comparison that nothing interrupted."""
    directory = tmp_path_factory.mktemp("compared") / "whole"
    return compare(directory), directory
