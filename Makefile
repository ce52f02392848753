# make demo    installs, runs a real training through interruptions on a simulated spot market, proves the result;
#              DATA=file, folder or URL of text to train on
# make test    installs, runs the tests
# make check   format, lint, types, layers, tests
# make gpu     saves from a GPU while it trains, compared byte by byte; needs one
# make soak    ten thousand damaged checkpoints; odd input, storms and kills by the thousand; a million simulated worlds (SOAK_SEEDS, JOBS; hours)
# make mutants plants bugs, one at a time, and looks whether anything notices (about 10 minutes)
# make bitexact  the full job interrupted at every step, alone, with loader workers, on 2 and 3 ranks, sharded: every byte
# make bench   saves to S3 beside thirteen peers, 100 MB and 1 GB; writes benchmarks/RESULTS.md (about 20 minutes);
#              bench-4gb, bench-shaped, bench-file and bench-quick print and leave that file alone
# make bench-placement TRACES=DIR   placement rules on recorded traces; writes benchmarks/RESULTS-placement.md

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test check soak mutants bitexact lint clean bench bench-4gb bench-shaped bench-file bench-quick bench-placement gpu

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/spotrun demo $(if $(DATA),--data '$(DATA)')

test: install
	$(BIN)/python -m pytest -n 3 --dist worksteal

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

SOAK_SEEDS ?= 1000000
SOAK_FIRST ?= $(shell date +%s)000000
JOBS ?= 2

soak: install
	SOAK_DAMAGES=10000 $(BIN)/python -m pytest -q tests/unit/checkpoint/test_checkpoint_corruption.py --timeout 3600
	FUZZ_EXAMPLES=5000 $(BIN)/python -m pytest -q -k fuzz tests/unit --timeout 3600
	$(BIN)/python -m pytest -q tests/integration/chaos_long.py --timeout 3600
	SOAK_STORMS=30 $(BIN)/python -m pytest -q tests/conformance/test_conformance_s3_training.py --timeout 3600
	SOAK_KILLS=1 $(BIN)/python -m pytest -q tests/integration/test_controller_local.py -k killed_at_a_write --timeout 3600
	$(BIN)/python -m spotrun.chaos.simulation --seeds $(SOAK_SEEDS) --first $(SOAK_FIRST) --jobs $(JOBS)

mutants: install
	$(BIN)/python tests/simulation/mutants.py

bitexact: install
	BITEXACT=1 $(BIN)/python -m pytest -q tests/unit/checkpoint/test_checkpoint_resume.py --timeout 3600
	BITEXACT=1 $(BIN)/python -m pytest -q tests/integration/test_distributed_gang.py -k full_job --timeout 3600

gpu: install
	$(BIN)/python benchmarks/gpu.py

PEERS := $(VENV)/.peers

$(PEERS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $(PEERS)

BENCH := $(BIN)/python benchmarks/checkpoint.py

bench: $(PEERS)
	$(BENCH) --size-mb 100 1024 --rounds 3

bench-4gb: $(PEERS)
	$(BENCH) --size-mb 4096 --rounds 1 --no-cases --saves 2 --methods spotrun,dcp-s3,dcp-s3-zero,torch_checkpointing --dry

bench-shaped: $(PEERS)
	$(BENCH) --size-mb 100 --rounds 3 --shaped --no-cases --dry

bench-file: $(PEERS)
	$(BENCH) --size-mb 100 --rounds 3 --store file --dry

bench-placement: install
	$(BIN)/python benchmarks/placement.py --traces $(TRACES)

bench-quick: $(PEERS)
	$(BENCH) --size-mb 100 --rounds 1 --no-cases --methods spotrun,s3torchconnector,dcp-s3-zero,torch_checkpointing --dry

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
