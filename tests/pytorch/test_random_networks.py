"""Hundreds of random networks with random cuts are proven and checked by independent routes."""

import copy

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import secateurs as sec
from support.random_networks import RandomNetwork, example, recipes


def random_cut(network, seed):
    random = np.random.default_rng(seed)
    return network.cut(
        {
            group.name: random.permutation(len(group))[: random.integers(0, len(group))]
            for group in network.groups
        }
    )


def twin_by_hand(model, cut):
    """The dense model with the input slices of removed channels zeroed in every weight."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in twin.named_modules():
            removed = cut.tensors.get(f"{name}.weight")
            if isinstance(module, (nn.Conv2d, nn.Linear)) and removed:
                module.weight[:, list(removed.removed.get(1, ()))] = 0
            elif isinstance(module, nn.ConvTranspose2d) and removed:
                module.weight[list(removed.removed.get(0, ()))] = 0
    return twin


def flops(model, inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs)
    return counter.get_total_flops()


@settings(max_examples=300)
@given(recipes(), st.integers(0, 2**16))
def test_a_random_cut_of_a_random_network_is_exact(recipe, seed):
    model = RandomNetwork(recipe).eval()
    inputs = example()
    network = sec.trace(model, inputs)
    cut = random_cut(network, seed)
    small = sec.apply(model, cut, inputs, network=network)
    with torch.no_grad():
        expected = twin_by_hand(model, cut)(inputs)
        received = small(inputs)
    scale = expected.abs().max().item()
    assert (received - expected).abs().max().item() <= 1e-4 * scale
    assert sum(p.numel() for p in small.parameters()) == network.cost(cut).params
    assert flops(small, inputs) == 2 * network.macs(cut)
    assert flops(model, inputs) == 2 * network.macs()
    stored = {id(t): t for t in (*small.parameters(), *small.buffers())}.values()
    assert sum(t.numel() * t.element_size() for t in stored) == network.bytes(cut)


@settings(max_examples=60)
@given(recipes(), st.integers(0, 2**16), st.integers(0, 2**16))
def test_two_cuts_in_turn_are_one_cut(recipe, first_seed, second_seed):
    model = RandomNetwork(recipe).eval()
    inputs = example()
    first = random_cut(sec.trace(model, inputs), first_seed)
    between = sec.apply(model, first, inputs)
    second = random_cut(sec.trace(between, inputs), second_seed)
    after = sec.apply(between, second, inputs)
    both = sec.Cut.from_json(first.then(second).to_json())
    assert both == sec.report_of(after).cut
    at_once = sec.apply(model, both, inputs, proof=False)
    with torch.no_grad():
        assert torch.equal(at_once(inputs), after(inputs))


@settings(max_examples=60)
@given(recipes(), st.integers(0, 2**16))
def test_the_model_comes_back_exactly_as_it_was(recipe, seed):
    model = RandomNetwork(recipe)
    model.train()
    model.blocks[0].eval()
    model.stem.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    pointers = [p.data_ptr() for p in model.parameters()]
    rng = torch.get_rng_state()
    network = sec.trace(model, example())
    small = sec.apply(model, random_cut(network, seed), example(), network=network)
    assert [module.training for module in model.modules()] == modes
    assert [module.training for module in small.modules()] == modes
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not small.stem.weight.requires_grad
