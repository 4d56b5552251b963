"""The Keras backend that the tests run on: the requested one, or a clear failure."""

import os

import numpy as np

FILTERS = (
    # Deprecations of each other and of NumPy in TensorFlow and JAX, which are not ours.
    "ignore::DeprecationWarning:tensorflow",
    "ignore::DeprecationWarning:jax",
    "ignore::DeprecationWarning:keras",
    "ignore::FutureWarning:tensorflow",
    # Keras on PyTorch: a tensor made from a read-only NumPy array.
    "ignore:The given NumPy array is not writable:UserWarning",
    # TensorFlow's layers keep NumPy scalars in protocol buffers.
    "ignore:In the future `np.object` will be defined:FutureWarning",
)


def prepare(config) -> None:
    """Before keras is imported: silence logs, and warnings that others cause."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ["KERAS_BACKEND"] == "jax":
        # A test runs each compiled program once, so only the compile time counts.
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    for line in FILTERS:
        config.addinivalue_line("filterwarnings", line)


def load_backend() -> str:
    """Return the backend that Keras runs on; it must be the requested one."""
    import keras

    asked = os.environ["KERAS_BACKEND"]
    assert keras.backend.backend() == asked, (
        f"KERAS_BACKEND={asked} was asked for; keras runs on {keras.backend.backend()}"
    )
    tensor = keras.ops.convert_to_tensor(np.zeros(1))
    made_by = type(tensor).__module__.partition(".")[0]
    expected = {"torch": ("torch",), "tensorflow": ("tensorflow",), "jax": ("jax", "jaxlib")}
    assert made_by in expected[asked], f"{asked} was asked for; its tensors are {made_by}'s"
    return asked


def draw_with_numpy(monkeypatch) -> None:
    """Use initialisers that draw with NumPy, because JAX compiles a program for each new shape.

    They draw from NumPy's own state, as ``keras.utils.set_random_seed`` sets it.
    """
    import keras

    np.random.seed(0)

    def draw_normal(self, shape, dtype=None, **_):
        values = np.random.normal(size=tuple(shape)) / max(1.0, np.prod(shape[:-1]) ** 0.5)
        return keras.ops.convert_to_tensor(values, dtype=dtype)

    def draw_uniform(self, shape, dtype=None, **_):
        values = np.random.uniform(self.minval, self.maxval, size=tuple(shape))
        return keras.ops.convert_to_tensor(values, dtype=dtype)

    for kind in ("VarianceScaling", "OrthogonalInitializer"):
        monkeypatch.setattr(getattr(keras.initializers, kind), "__call__", draw_normal)
    monkeypatch.setattr(keras.initializers.RandomUniform, "__call__", draw_uniform)
