## make run    set up, execute the whole series, write build/
## make test   set up, run every test and every notebook under nbval
## make lab    set up, open JupyterLab
## make lint   set up, check style, types and spelling
## make clean  remove what was set up, trained and built: .venv, runs and build
##
## Needs Python 3.11 or newer; another one than python3: make run PYTHON=/path/to/python3
.DEFAULT_GOAL := help
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11 python,$(shell \
  command -v $(name) >/dev/null 2>&1 && $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
BIN := .venv/bin
READY := .venv/ready
export JUPYTER_PLATFORM_DIRS := 1

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

# Written last: a set-up that was cut short has no such file, and is begun again.
$(READY): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found: install one, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: $(PYTHON) is no Python 3.11 or newer: say make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) came without venv or ensurepip: install python3-venv (on Debian and Ubuntu: sudo apt install python3-venv), then run make again" >&2; exit 1; }
	@echo "Setting up .venv (once; a few minutes on a slow line) ..."
	"$(PYTHON)" -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip install --python $(BIN)/python --compile-bytecode -r requirements.txt
	$(BIN)/python -m uv pip install --python $(BIN)/python --quiet --no-deps --editable .
	@touch $(READY)

run: $(READY)
	$(BIN)/python -m distill_utils run

test: $(READY) lint
	$(BIN)/python -m pytest

lab: $(READY)
	$(BIN)/python -m jupyter lab notebooks

lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m codespell_lib

# The newest versions that the index serves; torch and torchvision as a pair that was tried. What torch brings along
# for CUDA stays out: torch itself pins it, and a build for the CPU does without (UV_TORCH_BACKEND=cpu).
lock: $(READY)
	mkdir -p build && printf 'torch==2.15.0\ntorchvision==0.29.2\n' > build/constraints.txt
	$(BIN)/python -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-emit-index-url \
	  --no-annotate --upgrade --custom-compile-command "make lock" --constraint build/constraints.txt -o build/compiled.txt
	grep -v -E '^(cuda|nvidia)-|^triton==' build/compiled.txt > requirements.txt

clean:
	rm -rf .venv build runs .pytest_cache .ruff_cache *.egg-info

.PHONY: help run test lab lint lock clean
