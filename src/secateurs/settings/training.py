"""Settings of training, for the dense model and after cuts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from secateurs.settings.base import Count, Seed, Settings
from secateurs.training.schedules import Schedule


class Training(Settings):
    """How to train, dense and between cuts.

    Attributes:
        batches: Number of batches of dense training; 0 takes the model as trained.
        fine_tune_batches: Number of batches of training after each cut. Default: one epoch.
        evaluate_every: Number of batches between evaluations on the validation data. Default: one
            epoch.
        batch_size: Images per batch, over all processes. A data loader keeps its own batch size.
        accumulation_steps: Gradient accumulation: number of parts that a process splits its share
            of a batch into, to save memory. The gradients are the same, but batch normalisation
            sees one part at a time.
        optimizer: SGD (with Nesterov momentum), AdamW, or the optimizer and the loss that a Keras
            model was compiled with.
        learning_rate: Peak learning rate of dense training.
        fine_tune_learning_rate: Peak learning rate after a cut. Default: that of dense training, or
            a fifth of it where a round is shorter than an epoch, since a large rate recovers more
            but needs time to settle; three tenths of that where the cut was repaired, since large
            steps would undo the repair.
        momentum: SGD momentum.
        weight_decay: Weight decay (L2) on all parameters.
        schedule: Learning rate schedule; it restarts after each cut.
        warm_up: Fraction of the batches over which the learning rate warms up.
        label_smoothing: Label smoothing: share of the target that is spread over all classes.
        distillation: Weight of the distillation loss after a cut, between 0 (off) and 1 (no
            labels); the rest is the loss on the labels. Default: 0.5 in a study that classifies
            images, unless its rounds rewind or train a Keras model as it was compiled; else 0.
        temperature: Temperature of distillation; higher values soften the outputs.
        ema: Decay of an exponential moving average of the weights, which is evaluated beside them
            and kept if it is better. 0.98 averages over about 50 batches; 0 is off.
        flip: Mirror training images at random.
        shift: Maximum random shift of training images, in pixels.
        precision: Mixed precision of training; auto is bf16 on CUDA and fp32 elsewhere.
        seed: Seed of the data order, the augmentation and stochastic criteria.

    Source: Renda, Frankle & Carbin, Comparing Rewinding and Fine-tuning, ICLR 2020, and Le & Hua,
    Network Pruning That Matters, ICLR 2021: what recovers accuracy is a large learning rate that
    warms up and falls to zero in every round. Hinton, Vinyals & Dean, Distilling the Knowledge in a
    Neural Network, 2015.
    """

    batches: Annotated[int, Field(ge=0)] = 0
    fine_tune_batches: Count | None = None
    evaluate_every: Count | None = None
    batch_size: Count = 64
    accumulation_steps: Count = 1
    optimizer: Literal["sgd", "adamw", "compiled"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    fine_tune_learning_rate: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Schedule = "cosine"
    warm_up: Annotated[float, Field(ge=0, le=1)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    distillation: Annotated[float, Field(ge=0, le=1)] | None = None
    temperature: Annotated[float, Field(gt=0)] = 2.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    flip: bool = False
    shift: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: Seed = 0
