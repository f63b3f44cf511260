# Python 3.11 gets the lowest supported versions, 3.12 and newer the newest: the two ends that are tested.
PYTHON ?= python3
VENV ?= .venv
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
LOCK := requirements/$(if $(filter 3.11,$(PYTHON_VERSION)),py311-lowest,newest).txt
STAMP := $(VENV)/installed-$(PYTHON_VERSION)
UV_COMPILE := uv pip compile setup.py --extra test --upgrade --no-annotate --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" --quiet

.PHONY: help venv demo lint quick test test-slow lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' Makefile

venv: $(STAMP)  ## make .venv with pinned CPU dependencies (another Python: make venv PYTHON=python3.12)

$(STAMP): setup.py $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "ddaepp_jax needs Python 3.11 or newer: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOCK) -e '.[test]'
	@touch $@

demo: venv  ## train on digits, draw samples, probe, report: a first run on a CPU
	$(VENV)/bin/python -m ddaepp_jax.main --config=configs/unet_digits.py --workdir=runs/digits
	$(VENV)/bin/python -m ddaepp_jax.sample --workdir=runs/digits --out=runs/digits/samples/first
	$(VENV)/bin/python -m ddaepp_jax.linear_probe --workdir=runs/digits
	$(VENV)/bin/python -m ddaepp_jax.report --workdir=runs/digits
	@echo
	@echo "Look at   runs/digits/samples/first.png, and at runs/digits/report.html in a browser"
	@echo "Next      . $(VENV)/bin/activate"
	@echo "          python -m ddaepp_jax.sample --workdir=runs/digits --seed=1 --sampler=ddim"
	@echo "          python -m ddaepp_jax.main --config=configs/uvit_cifar.py:small --workdir=runs/cifar   # downloads CIFAR-10"

lint: venv  ## ruff: rules and layout
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .

# Most of their time is the compiler's, on tiny networks: its costly passes are left to the slow tests, and so is, where
# there is a choice (the newest JAX has none), the emitter of fused loops that takes half of a step's compilation.
QUICK_ENV := JAX_DISABLE_MOST_OPTIMIZATIONS=1 \
	$(if $(filter 3.11,$(PYTHON_VERSION)),XLA_FLAGS="$$XLA_FLAGS --xla_cpu_use_fusion_emitters=false")
quick: venv
	$(QUICK_ENV) $(VENV)/bin/python -m pytest -q -n 2 --dist worksteal -m "not slow"

test: lint quick  ## lint and the quick tests

test-slow: venv  ## the slow tests, then the quick ones under a second Python where there is one
	$(VENV)/bin/python -m pytest -q -n 2 --dist worksteal -m slow
	@for version in $(if $(filter 3.11,$(PYTHON_VERSION)),3.12 3.13,3.11); do \
		for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version*/bin/python; do \
			: 'a pyenv shim can be there and not run'; \
			if "$$python" --version >/dev/null 2>&1; then \
				exec $(MAKE) quick VENV=.venv-second PYTHON="$$python"; \
			fi; \
		done; \
	done; \
	echo "second Python: none found, skipped"

lock:  ## compile the constraint files anew (needs uv and Python 3.11 and 3.12)
	$(UV_COMPILE) --python-version 3.11 --resolution lowest-direct -o requirements/py311-lowest.txt
	$(UV_COMPILE) --python-version 3.12 -o requirements/newest.txt

clean:  ## remove everything made here except runs/
	rm -rf .venv .venv-second build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
