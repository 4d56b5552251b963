"""Accuracy kept at a budget, ours against Torch-Pruning's.

python benchmarks/accuracy.py train --networks resnet18_w16 --seeds 0 1 --dense FOLDER
"""

import argparse
from pathlib import Path

import torch

from support.fashion import NETWORKS, trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train the dense networks that are not there yet")
    for command in (train,):
        command.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
        command.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
        command.add_argument("--dense", type=Path, default=Path("runs/dense"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for network in options.networks:
        for seed in options.seeds:
            trained(network, seed, options.dense)


if __name__ == "__main__":
    main()
