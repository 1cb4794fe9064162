PYTHON ?= python3

# every folder with a server.py is a stage: part3/v1.2 is part3-v1.2
STAGES := $(subst /,-,$(patsubst %/server.py,%,$(wildcard part*/server.py part*/*/server.py)))
DIFFS := $(addprefix diff-,$(STAGES))
TRACES := $(addprefix trace-,$(STAGES))
REPLAYS := $(addprefix replay-,$(STAGES))
BUGS := $(subst _,-,$(patsubst laboratory/bugs/%.py,bug-%,\
	$(filter-out %/__init__.py,$(wildcard laboratory/bugs/*.py))))
HELPS := $(addprefix help-,learn bug watch trace replay grade matrix bench client diff readmes pictures)
COMMANDS := help help-stages learn diff watch trace replay grade matrix bench client test corpus lint readmes pictures clean
ALL := $(COMMANDS) replays $(STAGES) $(DIFFS) $(TRACES) $(REPLAYS) $(BUGS) $(HELPS)

# folders, which make would take for targets that are made already: part3/v1.2, and with a / behind
FOLDERS := $(wildcard */ */*/)
FOLDERS := $(filter-out $(ALL),$(FOLDERS) $(FOLDERS:%/=%))

# runs a module of common/, or one that needs .venv; the check is in words that every Python understands
COMMON = @$(PYTHON) -SEc 'import sys; sys.exit(sys.version_info < (3, 10) and 3)' 2>/dev/null || { \
	[ $$? = 3 ] && why='is older than Python 3.10' || why='does not run here (pyenv versions lists those of pyenv)'; \
	echo "PYTHON=$(PYTHON) $$why: name another, as in PYTHON=python3.13" >&2; exit 1; }; exec $(PYTHON) -m common.
VENV = $(COMMON)environment -m

.PHONY: $(ALL) $(FOLDERS)

help:
	$(COMMON)help

## make part3-v1.2: a stage, on port 8888; Ctrl-C ends it
$(STAGES):
	$(COMMON)run $@

## make help-stages: the list of stages, and how to run them
help-stages:
	$(COMMON)stages

## make help-grade: what a command does, and its variables
$(HELPS): help-%:
	$(COMMON)help $*

## make diff-part3-v1.2: the diff from the stage before
$(DIFFS): diff-%:
	$(COMMON)diff $*

## make diff FROM=part1 TO=part3-v1.0: the diff between any two stages
diff:
	$(COMMON)diff

## make learn: you write the server; each save is tested
learn:
	$(VENV) laboratory.learn

## make bug-zombie: a bug, its cure and the diff
$(BUGS): bug-%:
	$(VENV) laboratory.bug $*

## make watch: what the kernel knows about a server, live
watch:
	$(VENV) laboratory.watch

## make trace-part3-v1.2: the system calls of a stage (Linux)
$(TRACES): trace-%:
	$(VENV) laboratory.trace $*

trace:
	$(VENV) laboratory.trace

## make replay-part3-v1.2: step through a run in a browser (Linux)
$(REPLAYS): replay-%:
	$(VENV) laboratory.replay $*

replay:
	$(VENV) laboratory.replay

# all that are in replays/
replays:
	$(VENV) laboratory.replay all

## make grade SERVER='python3 my.py': which stage does yours behave like?
grade:
	$(VENV) laboratory.grade

## make matrix: measures what every stage does
matrix:
	$(VENV) laboratory.matrix

## make bench QUICK=1: how fast are stages and known servers?
bench:
	$(VENV) laboratory.bench

## make client MAX_CLIENTS=128 HOLD=5: the load client
client:
	$(COMMON)client $(if $(MAX_CLIENTS),--max-clients $(MAX_CLIENTS)) \
		$(if $(MAX_CONNS),--max-conns $(MAX_CONNS)) $(if $(HOLD),--hold $(HOLD))

## make test: sets up .venv and runs the tests
test:
	$(VENV) pytest $(ARGS)

## make corpus: grades well-known servers, in .venv-corpus
corpus:
	$(VENV) tests.corpus $(ARGS)

## make lint: checks the code with ruff
lint:
	$(VENV) ruff check

## make readmes: updates diffs and tables in the pages
readmes:
	$(VENV) laboratory.readmes

## make pictures: redraws the pictures in the README
pictures:
	$(VENV) laboratory.pictures

## make clean: removes .venv and what the tools left
clean:
	rm -rf .venv .venv-bench .venv-corpus .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# what was meant, what there is of that kind, or all that a name can begin with
KIND = $(firstword $(subst -, ,$(subst /, ,$@)))
MEANT = $(shell $(PYTHON) -SEm common.meant '$(subst ','\'',$@)' $(ALL) 2>/dev/null)
.DEFAULT $(FOLDERS):
	$(error make $@: there is no such command; $(or $(MEANT),\
		there are $(or $(filter $(KIND)-%,$(ALL)),$(COMMANDS) $(STAGES))))
