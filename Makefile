# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1

.PHONY: demo test test-all lint seeds openkbp clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/installed  ## Three hospitals' phantoms through a real TLS federation, minutes on two cores.
	$(BIN)/python -m deploy.demo

seeds: $(VENV)/installed  ## The demo's experiment at three seeds in one process: what is noise.
	$(BIN)/fedgtv-simulate configs/experiments/demo.yaml --seeds 1,2,3 --out runs/seeds

openkbp: $(VENV)/installed  ## The three real cohorts under FEDGTV_DATA.
	FEDGTV_DATA=$${FEDGTV_DATA:-../shared/data} $(BIN)/fedgtv-simulate configs/experiments/openkbp.yaml

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint  ## Lint, types, import rules and tests, with one TLS federation of three sites.
	$(BIN)/python -m pytest

test-all: lint  ## Everything, the slow checks too.
	$(BIN)/python -m pytest -m ''

clean:
	rm -rf demo runs build dist *.egg-info
