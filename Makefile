## make setup  create .venv, nothing else
## make run    set up, execute the whole series, write build/
## make test   set up, run every test and every notebook under nbval
## make lab    set up, open JupyterLab
## make course set up, write the students' versions of the graded exercises into build/course/release
## make student set up, write the students' edition, without solutions and hidden tests, into build/student
## make quizzes write the quizzes as Moodle GIFT and as QTI into build/quizzes
## make tables set up, write the generated tables and findings into README.md, docs/results.md and course/README.md
## make lint   set up, check style, types and spelling
## make site   the web edition, in build/site; make site-test looks at it in Chromium
## make zh     the Chinese edition, a checkout in build/zh; zh-lab opens it, zh-run draws its figures, zh-stale lists what is old
## make slides slides from the notebooks' own cells, in build/slides
## make colab  notebooks that install the package first, in build/site/colab
## make browser-test move every control of the explorers in lessons 02, 08 and 09, in JupyterLab and Chromium
## make mutants put faults into copies of the package, and show which test or which claim of a notebook notices each
## make planted plant faults in notebooks of two public series (FOLDERS="LLMs-from-scratch=… handson-ml3=…") and of this one
## make faults kill, fill, damage and lock out copies of the series, and show what is lost: nothing
## make datasets run every lesson on folders of pictures of many kinds
## make properties test functions with 1,000 generated arguments each, valid ones and invalid ones
## make strangers  the oldest and the newest versions, on every Python found here, each in a fresh environment
## make flakes ten times the whole suite: other hash seeds, another order, one and two threads
## make bench  compare the speed of training loops; needs torchdistill (benchmarks/requirements.txt) for all of them
## make clean  remove what was set up, trained and built: .venv, runs and build
##
## Needs Python 3.11 or newer; another one than python3: make run PYTHON=/path/to/python3
.DEFAULT_GOAL := help
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11 python,$(shell \
  command -v $(name) >/dev/null 2>&1 && $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
BIN := .venv/bin
READY := .venv/ready
SITE := build/site-venv
export JUPYTER_PLATFORM_DIRS := 1

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

define find_python
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found: install one, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: $(PYTHON) is no Python 3.11 or newer: say make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) came without venv or ensurepip: install python3-venv (on Debian and Ubuntu: sudo apt install python3-venv), then run make again" >&2; exit 1; }
endef

# Written last: a set-up that was cut short has no such file, and is begun again. What it is made from is dated as well:
# after a clock was moved back it would look newer for ever, and every make would set up again.
$(READY): requirements.txt pyproject.toml
	$(find_python)
	@echo "Setting up .venv (once; a few minutes on a slow line) ..."
	"$(PYTHON)" -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip install --python $(BIN)/python --compile-bytecode -r requirements.txt
	$(BIN)/python -m uv pip install --python $(BIN)/python --quiet --no-deps --editable .
	@$(BIN)/python -m jupyterlab.labextensions disable --level=sys_prefix --log-level=ERROR @jupyter/nbgrader  # the instructor's: course/README.md
	@touch $^ $@

setup: $(READY)

run: $(READY)
	$(BIN)/python -m distill_utils run

test: $(READY) lint
	$(BIN)/python -m pytest

lab: $(READY)
	$(BIN)/python -m jupyter lab notebooks

course: $(READY)
	$(BIN)/python course/exercises.py release

student: $(READY)
	$(BIN)/python course/edition.py

# QTI by text2qti, in an environment of its own that uv makes for it.
quizzes: $(READY)
	$(BIN)/python tools/quizzes.py build/quizzes
	for quiz in build/quizzes/*.txt; do (cd build/quizzes && ../../$(BIN)/python -m uv tool run --from text2qti==0.8.0 text2qti $$(basename $$quiz)) || exit 1; done

tables: $(READY)
	$(BIN)/python tools/tables/tables.py

bench: $(READY)
	$(BIN)/python benchmarks/kd_step.py

mutants: $(READY)
	$(BIN)/python tools/stress/mutants.py

planted: $(READY)
	$(BIN)/python tools/stress/planted.py $(FOLDERS)

faults: $(READY)
	$(BIN)/python tools/stress/faults.py

datasets: $(READY)
	$(BIN)/python tools/stress/datasets.py

properties: $(READY)
	$(BIN)/python -m pytest -n 0 tests/package/test_properties.py --hypothesis-profile=many

strangers: $(READY)
	$(BIN)/python tools/stress/strangers.py

flakes: $(READY)
	$(BIN)/python tools/stress/flakes.py

lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m codespell_lib
	@for tool in actionlint "zizmor --offline --quiet .github"; do \
	  ! command -v $${tool%% *} >/dev/null || $$tool || exit 1; done

# The site has an environment of its own, without torch: it reads the notebooks' outputs and the package's source.
$(SITE)/ready: tools/site/requirements.txt
	$(find_python)
	"$(PYTHON)" -m venv --clear $(SITE)
	$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(SITE)/bin/python -m uv pip install --python $(SITE)/bin/python --quiet -r tools/site/requirements.txt
	@touch $^ $@

# The Chinese edition, a checkout of its own in build/zh. Its figures are English until make zh-run has drawn them.
zh: $(SITE)/ready
	$(SITE)/bin/python tools/translate.py build

zh-stale zh-mark: zh-%: $(SITE)/ready
	$(SITE)/bin/python tools/translate.py $*

# They share the models of this checkout.
IN_CHINESE = cd build/zh && DISTILL_LANGUAGE=zh DISTILL_RUNS=$(CURDIR)/runs DISTILL_BUILD=$(CURDIR)/build/zh-run $(CURDIR)/$(BIN)/python

zh-run: $(READY) zh
	$(IN_CHINESE) -m distill_utils run --in-place

zh-lab: $(READY) zh
	$(IN_CHINESE) -m jupyter lab notebooks

slides: $(SITE)/ready zh
	rm -rf build/slides
	$(SITE)/bin/python tools/site/slides.py build/slides
	DISTILL_LANGUAGE=zh $(SITE)/bin/python tools/site/slides.py build/slides/zh

site: slides
	rm -rf build/site build/site-doctrees
	for language in en zh; do \
	  there=$$(test $$language = en || echo /$$language); export DISTILL_LANGUAGE=$$language; \
	  $(SITE)/bin/python tools/site/pages.py build/site-source/$$language && \
	  $(SITE)/bin/python -m sphinx -q -W --keep-going -c tools/site -d build/site-doctrees/$$language \
	    build/site-source/$$language build/site$$there || exit 1; done
	cp -R build/slides build/site/slides && mv build/site/slides/zh build/site/zh/slides
	$(SITE)/bin/python tools/site/check.py build/site

# What a browser is driven with; a machine without npm goes on without it, and what needs it says so.
export LOOK_MODULES := build/look-modules
look-modules:
	@! command -v npm >/dev/null || { mkdir -p $(LOOK_MODULES) && cp tools/site/package.json $(LOOK_MODULES)/ && \
	npm install --prefix $(LOOK_MODULES) --silent --no-audit --no-fund --no-package-lock; }

site-test: site look-modules
	@command -v npm >/dev/null || { echo "make site-test looked at nothing: it needs node, npm and Chromium"; exit 0; }; \
	node tools/site/look.mjs build/site build/look

browser-test: $(READY) look-modules
	$(BIN)/python tools/stress/browser.py

# Into the site, where they are published: after make site, which begins with an empty folder.
colab: $(SITE)/ready
	$(SITE)/bin/python tools/site/colab.py build/site/colab

# The newest versions that the index serves; torch and torchvision as a pair that was tried. What torch brings along
# for CUDA stays out: torch itself pins it, and a build for the CPU does without (UV_TORCH_BACKEND=cpu).
lock: $(READY)
	mkdir -p build && printf 'torch==2.15.0\ntorchvision==0.29.2\n' > build/constraints.txt
	$(BIN)/python -m uv pip compile pyproject.toml --extra test --extra course --extra zh --universal --python-version 3.11 --no-emit-index-url \
	  --no-annotate --upgrade --custom-compile-command "make lock" --constraint build/constraints.txt -o build/compiled.txt
	grep -v -E '^(cuda|nvidia)-|^triton==' build/compiled.txt > requirements.txt
	$(BIN)/python -m uv pip compile --group site --universal --python-version 3.11 --fork-strategy fewest --no-emit-index-url \
	  --no-annotate --upgrade --custom-compile-command "make lock" -o tools/site/requirements.txt

clean:
	rm -rf .venv build runs .hypothesis .pytest_cache .ruff_cache *.egg-info

.PHONY: help setup run test zh zh-stale zh-mark zh-run zh-lab lab course student quizzes tables bench slides site site-test look-modules browser-test colab mutants faults datasets properties strangers flakes lint lock clean planted
