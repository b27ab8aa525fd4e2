# Each target makes the virtual environment it needs. The same commands without make are in Docs/developers.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: demo test check benchmark pictures clean

demo: $(INSTALLED)
	$(BIN)/python -m vnet_segmentation demo -o demo --overwrite

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# With the peers that it measures against, which the tests do not need.
benchmark:
	$(PYTHON) -m venv .venv-benchmark
	.venv-benchmark/bin/python -m pip install --quiet --constraint constraints.txt --editable . \
		--requirement Testing/benchmarks/requirements.txt
	.venv-benchmark/bin/python Testing/benchmarks/peers.py
	.venv-benchmark/bin/python Testing/benchmarks/segmentation_speed.py
	.venv-benchmark/bin/python Testing/benchmarks/training_speed.py

pictures: $(INSTALLED)
	$(BIN)/python Docs/make_pictures.py

# Of the ten thousand files that --no-compile leaves alone, most are never imported.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[test]"
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) .venv-benchmark demo
