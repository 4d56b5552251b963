"""The requested Keras backend is the one that runs."""

import os
import subprocess
import sys

import keras

from contract import backend


def test_keras_runs_on_the_backend_that_was_asked_for():
    assert backend.load_backend() == os.environ["KERAS_BACKEND"] == keras.backend.backend()


def test_secateurs_imports_keras_only_where_a_keras_model_is():
    code = (
        "import sys, secateurs; print([m for m in ('keras', 'torch', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
