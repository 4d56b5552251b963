"""Secateurs for Keras 3 models, on TensorFlow, JAX and PyTorch."""

from secateurs.keras.ablation.oracle import ablate_channels
from secateurs.keras.collecting import collect_statistics
from secateurs.keras.cutting import apply, delete_channels
from secateurs.keras.exporting import input_arrays, outputs, run_file, write_file
from secateurs.keras.memory import peak_memory
from secateurs.keras.next_tokens import next_scores
from secateurs.keras.running import batch_size, runner
from secateurs.keras.saving import load, save
from secateurs.keras.statistics.cut_evaluation import evaluate_cut
from secateurs.keras.surgery.layers import delete_layer, insert_layer, replace_layer
from secateurs.keras.trace_model import trace
from secateurs.keras.tracing.op_call import Call
from secateurs.keras.tracing.op_record import Place
from secateurs.keras.tracing.rules.registry import rule
from secateurs.keras.tracing.tracer import Tracer
from secateurs.keras.training.batches import has_channels_last
from secateurs.keras.training.callbacks import Progress, PruneOnSchedule
from secateurs.keras.training.compilation import default_training
from secateurs.keras.training.distillation import distil
from secateurs.keras.training.learner import Learner
from secateurs.keras.training.task_learner import TaskLearner
from secateurs.keras.training.tasks import default_task, tasks_of

__all__ = [
    # same names as in secateurs.pytorch
    "apply",
    "batch_size",
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
    # training
    "Learner",
    "TaskLearner",
    "default_task",
    "tasks_of",
    "Progress",
    "PruneOnSchedule",
    "default_training",
    # whole layers
    "delete_layer",
    "insert_layer",
    "replace_layer",
    # user-defined tracing rules
    "Call",
    "Place",
    "Tracer",
    "rule",
]
