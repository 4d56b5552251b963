import dataclasses

import pytest

from secateurs.reconstruction.layers import LayerRepair, Walked


def test_a_layer_repair_is_immutable():
    layer = LayerRepair("a.weight", 9, 1e-3, 0.5, 0.2)
    walked = Walked((layer,), 1024)
    assert (walked.layers[0].weight, walked.peak_bytes) == ("a.weight", 1024)
    assert dataclasses.astuple(layer) == ("a.weight", 9, 1e-3, 0.5, 0.2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.after = 0.0
