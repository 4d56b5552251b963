"""Several devices: ``keras.distribution`` on JAX, with one CPU split into two devices."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("jax")

SCRIPT = """
import json, sys
import keras
import numpy as np
from keras import layers as L
import secateurs as sec

devices = int(sys.argv[1])
found = keras.distribution.list_devices()[:devices]
assert len(found) == devices, found
keras.distribution.set_distribution(
    keras.distribution.DataParallel(devices=found, auto_shard_dataset=False)
)
keras.utils.set_random_seed(0)
random = np.random.default_rng(0)
labels = np.arange(48) % 3
images = random.standard_normal((48, 8, 8, 1)).astype("float32") * 0.3
images[np.arange(48), labels * 2 + 1] += 1.0
model = keras.Sequential([
    keras.Input((8, 8, 1)),
    L.Conv2D(6, 3, activation="relu", name="conv1"),
    L.BatchNormalization(name="bn"),
    L.Flatten(),
    L.Dense(8, activation="relu", name="hidden"),
    L.Dense(3, activation="softmax", name="head"),
])
model.compile(keras.optimizers.SGD(0.05, 0.9), "sparse_categorical_crossentropy")
model.fit(images, labels, batch_size=12, epochs=2, verbose=0, shuffle=False)
result = sec.iterate(
    model, (images, labels), (images, labels), step=0.3, criterion="taylor",
    training=sec.Training(batch_size=12, learning_rate=0.02, fine_tune_batches=4),
    stop=sec.Stop(rounds=1, tolerance=None), measure_speed=False,
)
kernel = result.model.get_layer("conv1").kernel.value
print(json.dumps({
    "devices": len(kernel.sharding.device_set),
    "filters": result.model.get_layer("conv1").filters,
    "proof": result.report.proof.holds,
    "weights": [float(abs(weight).sum()) for weight in result.model.get_weights()],
    "accuracy": result.history.last("train")["accuracy"],
}))
"""


def run(devices):
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(devices)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(
    os.environ.get("KERAS_BACKEND") != "jax", reason="keras.distribution is for JAX"
)
def test_two_devices_give_the_results_of_one():
    two, one = run(2), run(1)
    assert (two["devices"], one["devices"]) == (2, 1)
    assert two["proof"]
    assert one["proof"]
    assert two["filters"] == one["filters"] < 6
    assert two["accuracy"] == pytest.approx(one["accuracy"], abs=0.05)
    for mine, theirs in zip(two["weights"], one["weights"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
