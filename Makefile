# make run    set up, execute the whole series, write build/
# make test   set up, run every test and every notebook under nbval
# make lab    set up, open JupyterLab
.DEFAULT_GOAL := help
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11 python,$(shell \
  command -v $(name) >/dev/null 2>&1 && $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
BIN := .venv/bin
READY := .venv/ready
export JUPYTER_PLATFORM_DIRS := 1

help:
	@sed -n 's/^# //p' Makefile; echo "make lint   check style; make clean   remove .venv, build and runs"

$(READY): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found: install one, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Setting up .venv (once; a few minutes on a slow line) ..."
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --editable .
	@touch $(READY)

run: $(READY)
	$(BIN)/python -m distill_utils run

test: $(READY) lint
	$(BIN)/python -m pytest

lab: $(READY)
	$(BIN)/jupyter lab notebooks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The newest versions that the index serves; torch and torchvision as a pair that was tried.
lock: $(READY)
	mkdir -p build && printf 'torch==2.15.0\ntorchvision==0.29.2\n' > build/constraints.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-emit-index-url \
	  --no-annotate --upgrade --custom-compile-command "make lock" --constraint build/constraints.txt -o requirements.txt

clean:
	rm -rf .venv build runs .pytest_cache .ruff_cache *.egg-info

.PHONY: help run test lab lint lock clean
