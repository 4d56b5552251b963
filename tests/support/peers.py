"""Processes that share calibration images, played by threads of this one."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np


class ThreadPeer:
    """One of several peers; they meet at a barrier, as processes do in a collective operation."""

    def __init__(self, rank, values, barrier):
        self.rank, self.count = rank, len(values)
        self._values, self._barrier = values, barrier

    def gather(self, value):
        self._values[self.rank] = value
        self._barrier.wait(60)
        every = list(self._values)
        self._barrier.wait(60)
        return every

    def gather_in_main(self, value):
        every = self.gather(value)
        return every if self.rank == 0 else []

    def total(self, arrays):
        every = self.gather([np.asarray(one, np.float64) for one in arrays])
        return [np.sum(parts, axis=0) for parts in zip(*every, strict=True)]

    def from_main(self, compute):
        return self.gather(compute() if self.rank == 0 else None)[0]


def run_with_peers(count, work):
    """``work(peers)`` of each peer, in the order of their ranks."""
    values, barrier = [None] * count, threading.Barrier(count)

    def play(rank):
        try:
            return work(ThreadPeer(rank, values, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(play, range(count)))
