PYTHON ?= python3

# every folder with a server.py is a stage: part3/v1.2 is part3-v1.2
STAGES := $(subst /,-,$(patsubst %/server.py,%,$(wildcard part*/server.py part*/*/server.py)))
DIFFS := $(addprefix diff-,$(STAGES))
TRACES := $(addprefix trace-,$(STAGES))
BUGS := $(addprefix bug-,silent-client fd-leak zombie eintr lost-signal stopped-child \
	many-processes dead-worker stuck-worker drip one-request \
	idle-clients waiting-application lost-reply lost-restart)
HELPS := $(addprefix help-,learn bug watch trace grade matrix bench client diff readmes pictures)
COMMANDS := help learn diff watch trace grade matrix bench client test corpus lint readmes pictures clean
ALL := $(COMMANDS) $(STAGES) $(DIFFS) $(TRACES) $(BUGS) $(HELPS)

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
	@echo 'Stages, on PORT=8888; Ctrl-C ends them:'
	$(COMMON)stages
	@echo
	@echo '  make part2-final APP=flaskapp:app               ... with another application of part2/apps'
	@echo '  make part3-v1.2 PORT=9000                       ... on another port'
	@echo '  make part3-v1.2 PEP475=off                      ... with the accept() of Python 2'
	@echo '  make part3-v1.2 PYTHON=python3.13               ... with another Python'
	@echo
	@echo 'Other commands:'
	@sed -n 's/^## \(make [^:]*\): *\(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-49s %s\n", $$1, $$2}'

## make help-grade: what a command does, and its variables
$(HELPS): help-%:
	@$(PYTHON) -c 'import ast, sys; print(ast.get_docstring(ast.parse(open(sys.argv[1]).read()), False).strip())' \
		$(wildcard common/$*.py laboratory/$*.py)

$(STAGES):
	$(COMMON)run $@

## make diff-part3-v1.2: the diff from the stage before
$(DIFFS): diff-%:
	$(COMMON)diff $*

## make diff FROM=part3-v1.1 TO=part3-final: the diff between any two stages
diff:
	$(COMMON)diff

## make learn: you write the server, and each save is tested
learn:
	$(VENV) laboratory.learn

## make bug-zombie: the bug, its cure and the diff, as a short scene
$(BUGS): bug-%:
	$(VENV) laboratory.bug $*

## make watch: what the kernel knows about the server on PORT, live
watch:
	$(VENV) laboratory.watch

## make trace-part3-v1.2: the system calls of a stage, as a timeline (Linux)
$(TRACES): trace-%:
	$(VENV) laboratory.trace $*

## make trace SERVER='python3 my_server.py': the system calls of your own server
trace:
	$(VENV) laboratory.trace

## make grade SERVER='python3 my_server.py': which stage does yours behave like?
grade:
	$(VENV) laboratory.grade

## make matrix: measures what every stage does
matrix:
	$(VENV) laboratory.matrix

## make bench QUICK=1: how fast are the stages, and the servers that people use?
bench: .venv-bench/made
	$(VENV) laboratory.bench

# the versions are those that are graded; a server that cannot be installed here is left out
.venv-bench/made: tests/corpus/requirements.txt
	@echo 'Setting up .venv-bench, which takes a minute ...' >&2
	@$(PYTHON) -m venv --clear .venv-bench
	@for server in gunicorn waitress cheroot granian uwsgi; do \
		.venv-bench/bin/pip install --quiet --disable-pip-version-check --constraint $< $$server || \
		echo "$$server is left out, since it cannot be installed here" >&2; done
	@touch $@

## make client MAX_CLIENTS=128 MAX_CONNS=8 HOLD=5: the load client
client:
	$(COMMON)client $(if $(MAX_CLIENTS),--max-clients $(MAX_CLIENTS)) \
		$(if $(MAX_CONNS),--max-conns $(MAX_CONNS)) $(if $(HOLD),--hold $(HOLD))

## make test: sets up .venv and runs the tests
test:
	$(VENV) pytest $(ARGS)

## make corpus: grades well-known servers, in .venv-corpus
corpus: .venv-corpus/made
	$(VENV) pytest -n 4 tests/corpus $(ARGS)

.venv-corpus/made: tests/corpus/requirements.txt
	$(PYTHON) -m venv --clear .venv-corpus
	.venv-corpus/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

## make lint: checks the code with ruff
lint:
	$(VENV) ruff check

## make readmes: updates the diffs and tables in the READMEs
readmes:
	$(VENV) laboratory.readmes

## make pictures: redraws the pictures in the README
pictures:
	$(VENV) laboratory.pictures

## make clean: removes .venv and what the tools left
clean:
	rm -rf .venv .venv-bench .venv-corpus .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# what there is of that kind, or all that a name can begin with
KIND = $(firstword $(subst -, ,$(subst /, ,$@)))
.DEFAULT $(FOLDERS):
	$(error make $@: there is no such command; there are $(or $(filter $(KIND)-%,$(ALL)),$(COMMANDS) $(STAGES)))
