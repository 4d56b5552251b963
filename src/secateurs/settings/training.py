"""Settings of training, for the dense model and after cuts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from secateurs.settings.base import Count, Seed, Settings
from secateurs.training.schedules import Schedule


class Training(Settings):
    """How to train, dense and between cuts.

    Attributes:
        batches: Batches of training the dense model; 0 takes it as trained.
        fine_tune_batches: Batches of training after each cut; an epoch if left out.
        evaluate_every: Batches between looks at the validation data; an epoch if left out.
        batch_size: Images a batch, of all processes together. A loader has its own.
        accumulation_steps: Parts of its images of a batch that a process takes one after the other:
            less memory, the same gradients. Batch normalisation sees one part at a time.
        optimizer: SGD (with Nesterov momentum), AdamW, or the optimizer and the loss that a Keras
            model was compiled with.
        learning_rate: Peak learning rate of dense training.
        fine_tune_learning_rate: The highest after a cut. If left out, the dense model's, or a
            fifth of it where a round is shorter than an epoch: a large rate recovers more, but
            needs time to settle. Of that three tenths where the cut was repaired: large steps would
            throw away what the repair left.
        momentum: SGD momentum.
        weight_decay: Weight decay (L2) on all parameters.
        schedule: Of the learning rate, begun anew after each cut.
        warm_up: Share of the batches in which the learning rate rises.
        label_smoothing: Share of the target that is spread over all classes.
        distillation: After a cut, the share of the loss that is the distance from the dense
            model's outputs; the labels have the rest. 1 looks at no label; 0 leaves it out. If left
            out, a half in a study that classifies images, unless its rounds go back (rewind) or
            train as a Keras model was compiled; else 0.
        temperature: At which these outputs are compared; higher ones soften them.
        ema: Decay of an average of the weights over the batches of a stage, which is evaluated
            beside them and kept where it is better; 0.98 averages over about 50. 0 takes none.
        flip: Mirror training images at random.
        shift: Move training images at random, by up to so many pixels.
        precision: Mixed precision of training; auto is bf16 on CUDA and fp32 elsewhere.
        seed: Of the order of the images, their augmentation, and the lots a criterion draws.

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
