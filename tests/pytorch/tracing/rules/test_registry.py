import torch
from torch.nn import functional as F

from support.traced import conv, trace


def test_unknown_operations_freeze_what_they_touch():
    def forward(m, x):
        odd = torch.histc(m.a(x), 4)
        return m.b(m.a(x)) * odd.mean() + m.c(F.relu(m.d(x)))

    _, network = trace(forward, a=conv(3, 4), b=conv(4, 2), c=conv(5, 2), d=conv(3, 5))
    assert [group.name for group in network.groups] == ["d"]
    why = next(frozen.reasons for frozen in network.frozen if frozen.name == "a")
    assert "aten::histc" in why[0]
    assert "test_registry.py" in why[0]
