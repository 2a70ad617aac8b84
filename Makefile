# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
INTEROP := .venv-interop
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1

.PHONY: demo test test-all lint test-images seeds openkbp sixteen-bits bench interop fuzz nginx clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(BENCH)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

$(INTEROP)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[interop]'
	touch $@

demo: $(VENV)/installed  ## Three hospitals' phantoms through a real TLS federation, minutes on two cores.
	$(BIN)/python -m deploy.demo

seeds: $(VENV)/installed  ## Transfer, fine-tuning, federating: three seeds on phantoms, in one process.
	$(BIN)/fedgtv-simulate configs/experiments/small/generalisation.yaml --seeds 1,2,3 --out runs/seeds

openkbp: $(VENV)/installed  ## The three real cohorts under FEDGTV_DATA.
	FEDGTV_DATA=$${FEDGTV_DATA:-../shared/data} $(BIN)/fedgtv-simulate configs/experiments/openkbp.yaml

sixteen-bits: $(VENV)/installed  ## The three real cohorts with weights in fp32 and in fp16, three seeds each.
	for form in fp32 fp16; do FEDGTV_DATA=$${FEDGTV_DATA:-../shared/data} \
		$(BIN)/fedgtv-simulate configs/experiments/openkbp_$$form.yaml --seeds 1,2,3 || exit 1; \
	done

bench: $(BENCH)/installed  ## Every benchmark of one core against its peers: what docs/performance.md shows, but for whole federations and what reads a run.
	failed=; for script in $(filter-out %/rounds.py %/links.py %/calls.py %/precision.py %/compression.py,$(wildcard tests/benchmarks/[!_]*.py)); do \
		OMP_NUM_THREADS=1 $(BENCH)/bin/python $$script || failed="$$failed $$script"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

interop: $(INTEROP)/installed  ## RTSTRUCTs that we write, read by independent packages.
	PYTHONPATH=.:tests $(INTEROP)/bin/python tests/interop/readers.py

fuzz: $(VENV)/installed  ## Ten minutes of damaged files through the readers; findings land in runs/fuzz.
	PYTHONPATH=.:tests $(BIN)/python tests/fuzz/run.py

test-images: $(VENV)/installed  ## Builds the images and runs a federation in them; as root on Debian, without Docker.
	PYTHONPATH=.:tests $(BIN)/python -m images.run

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint  ## Lint, types, import rules and tests, with one TLS federation of three sites.
	$(BIN)/python -m pytest

test-all: lint  ## Everything, the slow checks too: over an hour; those of the gateway need nginx, of namespaces and disks root.
	@command -v nginx >/dev/null || test -x /usr/sbin/nginx || echo "no nginx: its tests are skipped; make nginx"
	$(BIN)/python -m pytest -m ''

nginx:  ## The gateway's nginx, on Debian and as root.
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends nginx-light

clean:
	rm -rf demo runs build dist *.egg-info $(BENCH) $(INTEROP)
