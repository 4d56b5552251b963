import pytest

from secateurs.errors import UnknownNameError
from secateurs.training.metric import Metric
from secateurs.training.task import METRICS, TASKS, LearningTask, ready_metric, task_of


def close_enough(outputs, targets):
    return outputs


class Jaccard:
    """Says of itself what torchmetrics' say."""

    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0


class Error:
    higher_is_better = False


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        (LearningTask(), Metric("loss", higher_is_better=False, is_share=False)),
        (LearningTask(metric="iou"), METRICS["iou"]),
        (LearningTask(metric=close_enough), Metric("close enough", is_share=False)),
        (LearningTask(metric=lambda o, t: o), Metric("metric", is_share=False)),
        (LearningTask(metric=Jaccard()), Metric("Jaccard")),
        (LearningTask(metric=Error()), Metric("Error", higher_is_better=False, is_share=False)),
        (LearningTask(evaluate=lambda model: 0.5), Metric("metric", is_share=False)),
        (
            LearningTask(metric="mae", metric_name="error", higher_is_better=True, is_share=True),
            Metric("error"),
        ),
    ],
)
def test_a_metric_is_described_by_what_it_says_or_by_the_user(task, metric):
    assert task.described_metric == metric


def test_predefined_tasks_have_a_metric_each():
    found = {task: ready_metric(task).name for task in TASKS}
    assert found["segmentation"] == "mean IoU"
    assert found["language-modelling"] == "perplexity"
    assert ready_metric("regression", "mae") is METRICS["mae"]
    assert ready_metric(None).name == Metric().name
    with pytest.raises(UnknownNameError, match="task: no task 'segmenting'; did you mean 'segmen"):
        ready_metric("segmenting")
    with pytest.raises(UnknownNameError, match="metric: no metric 'maee'; did you mean 'mae'"):
        ready_metric(None, "maee")


def test_a_users_parts_replace_those_of_a_predefined_task():
    ready = {"regression": LearningTask("regression", loss=len, metric="mse")}
    assert task_of(None, ready, loss=None) is None
    assert task_of(None, ready, loss=abs) == LearningTask(loss=abs)
    assert task_of("regression", ready, loss=None) == ready["regression"]
    assert task_of("regression", ready, loss=abs).loss is abs
    assert task_of("regression", ready, loss=abs).metric == "mse"
    assert task_of("detection", ready).name == "detection"
    mine = LearningTask("mine", metric="f1")
    assert task_of(mine, ready, loss=abs) == LearningTask("mine", loss=abs, metric="f1")
