import torch
from torch import nn

from secateurs.pytorch.memory import activation_memory, peak_memory


class Wide(nn.Module):
    """Four numbers become a thousand, twice over, and four again."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 1000, bias=False), nn.Linear(1000, 4, bias=False)

    def forward(self, x):
        return self.down(torch.exp(self.up(x)))


def test_the_peak_is_weights_inputs_and_what_is_alive_at_once():
    numbers = 2 * 4000 + 3 * 4 + 2 * 3 * 1000  # both wide values while the second is made
    assert peak_memory(Wide(), torch.zeros(3, 4)) == 4 * numbers


def test_memory_that_views_share_counts_once():
    class Views(nn.Module):
        def forward(self, x):
            return x.view(2, 50).T[1:]

    assert peak_memory(Views(), torch.zeros(100)) == 400


def test_what_a_backward_pass_needs_is_counted_until_it_has_run():
    # A linear layer needs its input and exp its result; the value before exp can go.
    assert activation_memory(Wide(), torch.zeros(3, 4)) == 4 * (3 * 1000 + 3 * 4)
    tall = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU())
    assert activation_memory(tall, torch.zeros(2, 4)) == 4 * 2 * 2 * 10
    frozen = tall.requires_grad_(False)
    assert activation_memory(frozen, torch.zeros(2, 4)) == 4 * 2 * 2 * 10
    assert not any(one.requires_grad for one in frozen.parameters())
