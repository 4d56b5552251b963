"""Torch-Pruning's own scores, to compare with ours."""

import pytest


def their_scores(importance, model, layer, x):
    """An importance of Torch-Pruning for the filters of a convolution."""
    pruning = pytest.importorskip("torch_pruning")
    graph = pruning.DependencyGraph().build_dependency(model, example_inputs=x)
    group = graph.get_pruning_group(
        layer, pruning.prune_conv_out_channels, idxs=list(range(layer.out_channels))
    )
    return importance(group).detach().numpy()
