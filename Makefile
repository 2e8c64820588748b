# Every target installs the environment that it needs; later runs reuse it.
# pip's own variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, ...) choose where packages come from.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
COMPOSE ?= docker compose
SEED ?= 1
TEST_PROCESSES ?= 3
OPTIONS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
BENCHMARKS := .venv/.benchmarks
MLFLOW := .venv/mlflow/.installed
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -qq --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-fast test-rounding test-faults test-long test-packages test-integrations bucket-check mutants \
	check client lint format types imports faults \
	bench-deletion bench-service bench-intake-events bench-growth bench-pages bench-census bench-heads bench-text bench-memorised bench-auditor bench-methods gpu-check compose-check \
	compose-bucket-check clean

# Where it is set, every process that a test starts would compile the whole program anew.
unexport PYTHONDONTWRITEBYTECODE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  OPTIONS='...' is passed to the command of demo, test, faults and bench-*;"
	@echo "  PYTHON=... names the interpreter that makes .venv (3.11 or newer)."

demo: $(INSTALLED) ## Train, forget over HTTP and verify on real data; print the results (about a minute)
	$(BIN)/unlearn demo $(OPTIONS)

serve: $(INSTALLED) ## Start API, worker and beat on this machine; state is kept in ./state (HOST=, PORT=)
	$(BIN)/unlearn serve --host $(HOST) --port $(PORT) $(OPTIONS)

# In their own order: ordered by their number of tests, files with few long ones would come last,
# and one process would wait for the other.
test: $(INSTALLED) ## Run the tests; PostgreSQL and Redis are used if they answer
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m "not slow and not seconds" $(OPTIONS)

# Which tests these are is decided while they run (tests/fast.py): there is no list to keep.
test-fast: $(INSTALLED) ## Run the tests that need no server, database, further process, training or seconds (a minute)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rfE -n $(TEST_PROCESSES) -p tests.fast -m "not slow and not seconds and not postgres and not redis" $(OPTIONS)

# The last digits of float32 differ between processors; the tests must pass with any of them.
test-rounding: $(INSTALLED) ## Run the tests of the algorithms with the rounding of CPUs without AVX and with AVX2, and the long ones
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) -m "not slow" tests/unlearning $(OPTIONS)
	ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -m "not slow" tests/unlearning $(OPTIONS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow tests/unlearning $(OPTIONS)

check: lint types imports test ## Check style, format, types and import rules, and run the tests (CI runs the longer ones too)

lint: $(INSTALLED) ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## Correct style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

client: $(INSTALLED) ## Write the typed client's calls and shapes from the OpenAPI document
	$(BIN)/python -m tests.service.client.generate

types: $(INSTALLED) ## Check the types (mypy, strict)
	$(BIN)/mypy

imports: $(INSTALLED) ## Check which package may import which
	$(BIN)/lint-imports

test-faults: $(INSTALLED) ## Run the tests that kill and race real processes, and a short fault run (some minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) -m slow tests/faults/test_faults.py tests/faults/test_long.py \
		tests/workers/jobs tests/workers/embedded tests/workers/schedule tests/workers/cli/test_waiting.py tests/workers/compute/test_group.py \
		tests/service/api/test_silent_database.py $(OPTIONS)

test-long: $(INSTALLED) ## Run the tests with a bucket, with generated API calls, of make mutants and of what benchmarks count, and those that take seconds (three minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile -m slow tests/test_secrets.py tests/test_mutants.py \
		tests/service/api/test_openapi.py tests/service/api/test_hanging_up.py tests/workers/test_bucket.py \
		tests/models_store tests/benchmarks $(OPTIONS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile -m seconds --ignore tests/unlearning $(OPTIONS)

test-packages: $(INSTALLED) ## Run the README's walk, the tests with packages from outside, the client by itself, and those of what each image imports (two minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) -m slow tests/extending tests/deployment tests/service/client \
		tests/test_readme.py $(OPTIONS)

test-integrations: $(INSTALLED) $(MLFLOW) ## Run the console in Debian's Chromium, the metrics through Debian's Prometheus and the bridge to an MLflow server, each of which it starts (some minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs -m slow tests/integrations $(OPTIONS)

bucket-check: $(INSTALLED) ## Run the demo and a fault run on an S3 server that is started for it (two minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow tests/workers/test_demo_on_bucket.py tests/faults/test_bucket.py $(OPTIONS)

mutants: $(INSTALLED) ## Make 200 small changes of the program, one at a time, and list those that no test notices (an hour or more)
	nice $(BIN)/python -m tests.mutants $(OPTIONS)

faults: $(INSTALLED) ## Inject faults for some minutes and check that no request is lost (SEED=)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --seed $(SEED) $(OPTIONS)

bench-deletion: $(BENCHMARKS) ## Compare the update with retraining, on CIFAR-10
	$(BIN)/python -m benchmarks.deletion $(OPTIONS)

bench-service: $(BENCHMARKS) ## Measure seconds from request to promotion, and requests per second
	$(BIN)/python -m benchmarks.service $(OPTIONS)

bench-intake-events: $(BENCHMARKS) ## Compare the rate of accepted requests with webhooks and metrics on and off (OPTIONS=--quick: a third)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.intake_events $(OPTIONS)

bench-growth: $(BENCHMARKS) ## Count how the cost of a deletion grows with data and history (OPTIONS=--quick: minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.growth $(OPTIONS)

bench-pages: $(BENCHMARKS) ## Time the console's pages with 100,000 requests and 400 versions (OPTIONS=--quick: a tenth)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.pages $(OPTIONS)

bench-census: $(BENCHMARKS) ## Ingest, train on and forget from a table of words (OPTIONS='--data FOLDER' with adult-census.csv)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.census $(OPTIONS)

bench-heads: $(BENCHMARKS) ## Time deletions from heads that are fitted to their minimum (OPTIONS=--quick: seconds)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.heads $(OPTIONS)

bench-text: $(BENCHMARKS) ## Measure forgetting of texts on Banking77, with an encoder (OPTIONS='--encoder FOLDER', --quick: minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.text $(OPTIONS)

bench-memorised: $(BENCHMARKS) ## Measure forgetting of memorised rows (OPTIONS=--quick: minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.memorised $(OPTIONS)

bench-auditor: $(BENCHMARKS) ## Judge attacks, honest retrains and small batches (OPTIONS=--quick: minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.auditor $(OPTIONS)

bench-methods: $(BENCHMARKS) ## Compare every method with retraining, with plots (OPTIONS=--quick: minutes)
	$(BIN)/python -m benchmarks.methods $(OPTIONS)

gpu-check: $(BENCHMARKS) ## Check results and speed on a GPU (OPTIONS='--device cpu --tiny': on a CPU)
	$(BIN)/python -m benchmarks.gpu $(OPTIONS)

compose-check: $(INSTALLED) ## Check the compose deployment from a clean start (COMPOSE='docker compose')
	$(BIN)/python -m tests.deployment.prove --compose "$(COMPOSE)" $(OPTIONS)

compose-bucket-check: $(INSTALLED) ## Check it with the store in a bucket and two workers (OPTIONS='--store moto': without MinIO's image)
	$(BIN)/python -m tests.deployment.prove --compose "$(COMPOSE)" --store minio $(OPTIONS)

clean: ## Remove the environment and every cache; ./state stays
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not." \
			"Name one: make $(firstword $(MAKECMDGOALS)) PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# setuptools first and no build isolation, so that the build dependencies are pinned, too.
$(INSTALLED): pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing into .venv (the first time takes some minutes) ..."
	@$(PIP_INSTALL) setuptools
	@$(PIP_INSTALL) --no-build-isolation --editable '.[api,worker,demo,dev]'
	@touch $@

$(BENCHMARKS): $(INSTALLED)
	@$(PIP_INSTALL) --no-build-isolation --editable '.[benchmarks]'
	@touch $@

# Apart, as its dependencies are not ours.
$(MLFLOW): tests/integrations/mlflow-server.txt | .venv/bin/python
	@echo "installing an MLflow server into .venv/mlflow ..."
	@$(BIN)/python -m venv .venv/mlflow
	@.venv/mlflow/bin/python -m pip install --disable-pip-version-check -qq --requirement $<
	@touch $@
