from pathlib import Path

from secateurs.deployment.targets import TARGETS


def test_every_target_says_what_installs_it():
    for target in TARGETS.values():
        assert target.command.startswith("pip install") or target.name == "safetensors"
        assert Path(f"x{target.suffix}").suffix == target.suffix
