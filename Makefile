PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8888
PEP475 ?= on
APP ?= wsgiapp:app
export HOST PORT PEP475

# every folder with a server.py is a stage: part3/v1.2 is part3-v1.2
STAGES := $(patsubst %/server.py,%,$(wildcard part*/server.py part*/*/server.py))
PLAIN := $(foreach stage,$(filter-out part2/%,$(STAGES)),$(subst /,-,$(stage)))
WSGI := $(foreach stage,$(filter part2/%,$(STAGES)),$(subst /,-,$(stage)))
DIFFS := $(addprefix diff-,$(PLAIN) $(WSGI))
TRACES := $(addprefix trace-,$(PLAIN) $(WSGI))
BUGS := $(addprefix bug-,silent-client fd-leak zombie eintr lost-signal stopped-child)

# the environment is made again for another Python, and for other requirements
VENV := .venv/made-for-$(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)
FRAMEWORK = $(filter flaskapp:% pyramidapp:% djangoapp:%,$(APP))

# in words that every Python understands
CHECK_PYTHON = @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	{ echo '$(PYTHON) is not Python 3.10 or newer: name another with PYTHON=python3.13' >&2; exit 1; }

.PHONY: help $(PLAIN) $(WSGI) $(DIFFS) diff $(TRACES) trace $(BUGS) watch grade matrix client test corpus lint \
	readmes pictures clean

help:
	@echo 'Stages, on PORT=8888; Ctrl-C ends them:'
	@$(PYTHON) -m common.stages
	@echo
	@echo '  make part2-final APP=flaskapp:app               ... with another application of part2/apps'
	@echo '  make part3-v1.2 PORT=9000                       ... on another port'
	@echo '  make part3-v1.2 PEP475=off                      ... with the accept() of Python 2'
	@echo '  make part3-v1.2 PYTHON=python3.13               ... with another Python'
	@echo
	@echo 'Beside them:'
	@sed -n 's/^## \(make [^:]*\): *\(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-49s %s\n", $$1, $$2}'

$(PLAIN):
	$(CHECK_PYTHON)
	@$(PYTHON) -m common.run $@

$(WSGI): $(if $(FRAMEWORK),$(VENV))
	$(CHECK_PYTHON)
	@$(if $(FRAMEWORK),.venv/bin/python,$(PYTHON)) -m common.run $@ $(APP)

## make diff-part3-v1.2: the step to a stage from the one before
$(DIFFS):
	@$(PYTHON) -m common.diff $(@:diff-%=%)

## make diff FROM=part3-v1.1 TO=part3-final: the step between any two
diff:
	@$(PYTHON) -m common.diff $(FROM) $(TO)

## make bug-zombie: the bug, its cure and the diff, as a short scene
$(BUGS): $(VENV)
	@.venv/bin/python -m laboratory.scenes $(@:bug-%=%)

## make watch: what the kernel sees of the server on PORT, live
watch: $(VENV)
	@.venv/bin/python -m laboratory.watch

## make trace-part3-v1.2: its system calls as a timeline (Linux)
$(TRACES): $(VENV)
	@.venv/bin/python -m laboratory.trace $(@:trace-%=%)

## make trace SERVER='python3 my_server.py': those of your own
trace: $(VENV)
	@.venv/bin/python -m laboratory.trace

## make grade SERVER='python3 my_server.py': which stage is it like?
grade: $(VENV)
	@.venv/bin/python -m laboratory.grade

## make matrix: measures what every stage does
matrix: $(VENV)
	@.venv/bin/python -m laboratory.matrix

## make client MAX_CLIENTS=128 MAX_CONNS=8 HOLD=5: the load client
client:
	@$(PYTHON) common/client.py $(if $(MAX_CLIENTS),--max-clients $(MAX_CLIENTS)) \
		$(if $(MAX_CONNS),--max-conns $(MAX_CONNS)) $(if $(HOLD),--hold $(HOLD))

## make test: sets up .venv and runs the tests
test: $(VENV)
	@.venv/bin/python -m pytest $(ARGS)

## make corpus: grades servers that many use, in .venv-corpus
corpus: $(VENV) .venv-corpus/made
	@.venv/bin/python -m pytest -n 4 tests/corpus/test_corpus.py $(ARGS)

.venv-corpus/made: tests/corpus/requirements.txt
	$(PYTHON) -m venv --clear .venv-corpus
	.venv-corpus/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

## make lint: what ruff says of the code
lint: $(VENV)
	@.venv/bin/ruff check

## make readmes: writes the diffs and tables of the READMEs anew
readmes: $(VENV)
	@.venv/bin/python -m laboratory.readmes

## make pictures: draws the pictures of the README anew
pictures: $(VENV)
	@.venv/bin/python -m laboratory.pictures

## make clean: removes .venv and what the tools left
clean:
	rm -rf .venv .venv-corpus .pytest_cache .ruff_cache common/__pycache__ common/*/__pycache__ laboratory/__pycache__ tests/__pycache__ part2/apps/__pycache__

$(VENV): requirements.txt
	$(CHECK_PYTHON)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) cannot make a .venv: install it, on Debian and Ubuntu with apt install python3-venv' >&2; exit 1; }
	@rm -rf .venv
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
