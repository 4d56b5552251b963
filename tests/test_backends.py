import subprocess
import sys

import keras
import pytest
from torch import nn

from secateurs.backends import backend_named, backend_of, can_repair, framework_of, repairing
from secateurs.errors import ModelError


def test_a_model_is_of_the_framework_that_it_is_made_in():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    assert framework_of(nn.Linear(2, 2)) == "pytorch"
    assert framework_of(model) == "keras"  # on PyTorch's backend it is a module of PyTorch too
    assert backend_of(model) is backend_named("keras")
    assert backend_of(nn.Linear(2, 2)).__name__ == "secateurs.pytorch"


@pytest.mark.parametrize("wrong", ["resnet18", None, nn.Linear, {}])
def test_what_is_no_model_is_refused(wrong):
    with pytest.raises(ModelError, match=r"expected a torch.nn.Module or a keras.Model; received"):
        framework_of(wrong)


def test_repair_is_of_the_frameworks_that_have_it():
    for framework in ("pytorch", "keras"):
        assert can_repair(framework)
        assert repairing(framework).__name__ == f"secateurs.{framework}.reconstruction"
    assert not can_repair("jax")
    with pytest.raises(ModelError, match=r"received one of jax. Pass repair=False"):
        repairing("jax")


def test_naming_a_backend_imports_its_framework_alone():
    code = (
        "import sys; from secateurs.backends import backend_named; backend_named('pytorch'); "
        "print('keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
