from secateurs.channels.blocks import BlockCut
from secateurs.channels.cost import Cost
from secateurs.channels.network_costs import NetworkCosts
from support.networks_by_hand import two_layers


def costs_of(network):
    return NetworkCosts(
        network.tensors.values(), network.contractions, network.solution, network.widths
    )


def test_what_is_left_is_counted_by_hand():
    network = two_layers()
    costs = costs_of(network)
    (group,) = network.groups
    gone = network.alive(group.channels[[0, 1, 3]])
    # weights of 1 x 3 and 2 x 1, a bias and a factor; the buffer of 8 bytes is no parameter
    assert costs.after(gone) == Cost(
        params=3 + 2 + 1 + 1, macs=5 * (3 + 2), bytes=4 * 7 + 8, channels=1
    )


def test_a_block_that_goes_takes_its_tensors_and_its_products():
    network = two_layers()
    block = BlockCut(owner="first")
    left = costs_of(network).without([block], network.alive())
    assert left == Cost(params=4 + 8, macs=5 * 8, bytes=4 * 12 + 8, channels=4)
    assert costs_of(network).without([], network.alive()) == network.cost()


def test_a_block_goes_and_the_rest_is_narrower():
    network = two_layers()
    (group,) = network.groups
    narrower = network.alive(group.channels[[0, 1, 3]])
    assert costs_of(network).without([], narrower) == costs_of(network).after(narrower)
    left = costs_of(network).without([BlockCut(owner="first")], narrower)
    assert (left.params, left.macs) == (1 + 2, 5 * 2)  # a factor, and a weight of 2 x 1
