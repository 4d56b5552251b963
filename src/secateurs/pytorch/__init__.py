"""Secateurs for PyTorch models."""

from secateurs.pytorch.ablation.oracle import ablate_channels
from secateurs.pytorch.collecting import collect_statistics
from secateurs.pytorch.cutting import apply, delete_channels
from secateurs.pytorch.exporting import input_arrays, outputs, run_file, write_file
from secateurs.pytorch.memory import peak_memory
from secateurs.pytorch.next_tokens import next_scores
from secateurs.pytorch.running import batch_size, runner
from secateurs.pytorch.saving import load, save
from secateurs.pytorch.statistics.cut_evaluation import evaluate_cut
from secateurs.pytorch.surgery.slicing import cut_optimizer
from secateurs.pytorch.trace_model import trace
from secateurs.pytorch.training.batches import has_channels_last
from secateurs.pytorch.training.distillation import distil
from secateurs.pytorch.training.learner import Learner, default_training
from secateurs.pytorch.training.task_learner import TaskLearner
from secateurs.pytorch.training.tasks import TASKS, default_task, tasks_of
from secateurs.pytorch.training.tracking import TrackingWatcher, check_trackers

__all__ = [
    "TASKS",
    "Learner",
    "TaskLearner",
    "TrackingWatcher",
    "apply",
    "batch_size",
    "check_trackers",
    "cut_optimizer",
    "delete_channels",
    "distil",
    "collect_statistics",
    "has_channels_last",
    "input_arrays",
    "evaluate_cut",
    "load",
    "ablate_channels",
    "next_scores",
    "outputs",
    "peak_memory",
    "run_file",
    "runner",
    "save",
    "write_file",
    "trace",
    "default_task",
    "default_training",
    "tasks_of",
]
