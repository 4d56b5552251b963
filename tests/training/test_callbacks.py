from secateurs.training.callbacks import Relay, Watcher
from support.scripted import Scripted, run


class Written(Watcher):
    """Only what it is told is written down; the rest stays silent."""

    def __init__(self):
        self.stages, self.kinds, self.ticks, self.open = [], [], 0, 0

    def begin(self, stage, batches, done=0):
        self.stages.append((stage, batches, done))
        self.open += 1

    def tick(self):
        assert self.open > 0  # of what began last
        self.ticks += 1

    def end(self):
        self.open -= 1

    def recorded(self, record):
        self.kinds.append(record["kind"])


def test_a_watcher_gets_all_events_in_order():
    watcher = Written()
    _, store = run(Scripted(lambda round_, done: 0.9), stop={"rounds": 1}, watcher=watcher)
    assert watcher.open == 0
    assert watcher.kinds == [record["kind"] for record in store.history]
    trained = [(batches, done) for stage, batches, done in watcher.stages if batches == 20]
    assert trained == [(20, 0), (20, 0)]  # the dense model, and one round
    looks = sum(1 for stage, _, _ in watcher.stages if stage.startswith("evaluating"))
    assert watcher.ticks == 40 + looks  # a batch of either is a tick


def test_an_idle_watcher_changes_nothing():
    kinds = []
    for watcher in (None, Watcher()):
        _, store = run(Scripted(lambda round_, done: 0.9), stop={"rounds": 1}, watcher=watcher)
        kinds.append([record["kind"] for record in store.history])
    assert kinds[0] == kinds[1]


def test_a_relay_passes_everything_on():
    one, other = Written(), Written()
    run(Scripted(lambda round_, done: 0.9), stop={"rounds": 1}, watcher=one)
    run(Scripted(lambda round_, done: 0.9), stop={"rounds": 1}, watcher=Relay(other))
    assert vars(other) == vars(one)
    assert one.ticks
