# The words a newcomer needs: `make demo`, `make test`, `make check`, `make bench`.
# `.venv` holds what the agent runs with; `.venv-dev` adds what testing and checking need. Both are
# made from the hash-locked requirements, never from what happens to be newest today.

PYTHON ?= python3
RUN := .venv/bin
DEV := .venv-dev/bin
ARGS ?=

.PHONY: help demo test check format bench pages image lock clean

help: ## Show these words
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / - /'

demo: .venv/.made ## Set everything up and watch the agent do its job (ARGS=--once ends by itself)
	@$(RUN)/jules-agent demo $(ARGS)

test: .venv-dev/.made ## Set everything up and run every test (ARGS goes to pytest)
	@$(DEV)/python tests/setup_machine.py
	$(DEV)/python -m pytest $(ARGS)

check: .venv-dev/.made ## Style, types and the direction of imports
	$(DEV)/ruff check .
	$(DEV)/ruff format --check .
	$(DEV)/mypy
	$(DEV)/lint-imports

format: .venv-dev/.made ## Let ruff put the code in its form
	$(DEV)/ruff check --fix .
	$(DEV)/ruff format .

bench: .venv/.made ## Measure what the README promises
	$(RUN)/python -m benchmarks.init
	$(RUN)/python -m benchmarks.bundles
	$(RUN)/python -m benchmarks.weight

pages: .venv-dev/.made ## Write the files that are made from code: configuration page, dashboard
	$(DEV)/python docs/make_configuration.py
	$(DEV)/python dashboards/make_dashboard.py

image: ## Build the container images jules-agent and jules-demo (needs docker)
	@PYTHON="$(PYTHON)" sh images/build.sh

lock: .venv-dev/.made ## Renew both lock files from pyproject.toml
	$(DEV)/python -m pip install --quiet uv
	$(DEV)/uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url \
		--upgrade pyproject.toml -o requirements.lock
	$(DEV)/uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url \
		--upgrade --extra dev --constraint requirements.lock pyproject.toml -o requirements-dev.lock

clean: ## Remove what was made here
	rm -rf images/local/wheels .venv .venv-dev build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/.made: requirements.lock pyproject.toml
	@PYTHON="$(PYTHON)" sh .ci/venv.sh .venv requirements.lock
	@touch $@

.venv-dev/.made: requirements-dev.lock pyproject.toml
	@PYTHON="$(PYTHON)" sh .ci/venv.sh .venv-dev requirements-dev.lock
	@touch $@
