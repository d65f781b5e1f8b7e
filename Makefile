# make quickstart   installs into .venv, pretrains, evaluates and exports on built-in data
# make test         installs what the tests need, then style, types, layers and the test suite
#
# Both do their own set-up and are quick when run again. PYTHON=python3.12 chooses another Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= configs/barlow_twins/tiny_cpu.yaml
RUN ?= runs/quickstart
# What a user's first command needs; the rest is for building the tests' ffcv, for their pictures, and
# for looking at reports in a browser (100 MB).
SYSTEM_PACKAGES := python3-venv libturbojpeg0
FFCV_PACKAGES := python3-dev g++ pkg-config libturbojpeg0-dev libopencv-dev
TEST_PACKAGES := $(FFCV_PACKAGES) tuxpaint-stamps-default chromium-headless-shell

.PHONY: quickstart test lint docs system system-test clean

quickstart: $(VENV)/.installed-demo
	$(BIN)/python tools/quickstart.py $(RECIPE) run_dir=$(RUN)

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as pages, in build/docs.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs build -q

# System packages: installed when root, spelled out otherwise. Without
# libturbojpeg Pillow decodes, more slowly.
system:
	@sh .ci/system_packages.sh $(SYSTEM_PACKAGES)

system-test:
	@sh .ci/system_packages.sh $(SYSTEM_PACKAGES) $(TEST_PACKAGES)

$(BIN)/python: | system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | system-test $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --editable '.[ffcv]' \
		|| echo 'ffcv could not be built: its tests are skipped. It needs: apt-get install $(FFCV_PACKAGES)'
	@touch $@

clean:
	rm -rf $(VENV)
