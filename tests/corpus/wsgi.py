"""WSGI servers that nobody here wrote, and what part 2's experiments say of each.

They need an environment of their own, made from requirements.txt: CORPUS names its bin folder.
    CORPUS=/tmp/corpus/bin .venv/bin/python -m pytest tests/corpus/wsgi.py
Each `bug` below can be shown with the bytes; NAMED has one of them for each.
"""
import os
import re
from functools import partial

import pytest

from laboratory.experiments.part2 import EXPERIMENTS
from laboratory.experiments.verdicts import measure
from laboratory.grade import own_server, try_out

BIN = os.environ.get('CORPUS', '')
COMMANDS = {  # those that are not in wsgi_servers.py
    'gunicorn': 'gunicorn --bind 127.0.0.1:{port}',
    'gunicorn_threads': 'gunicorn -w 3 -k gthread --threads 2 --bind 127.0.0.1:{port}',
    'waitress': 'waitress-serve --listen=127.0.0.1:{port}',
    'granian': 'granian --interface wsgi --port {port}',
    'hypercorn': 'hypercorn --bind 127.0.0.1:{port} wsgi:{app}',
    'uwsgi': 'uwsgi --http-socket 127.0.0.1:{port} --need-app --module',
}
EXPECTED = """
TABLE
"""
NAMED = {}
ROWS = [row.split() for row in EXPECTED.strip().splitlines()]
CELLS = [(name, experiment, outcome) for name, *outcomes in ROWS[1:]
         for experiment, outcome in zip(EXPERIMENTS, outcomes, strict=True)]


def command(name):
    """What starts it; the application is written behind it, or where {app} is."""
    return f'{BIN}/' + COMMANDS.get(name, f'python tests/corpus/wsgi_servers.py {name}')


@pytest.mark.skipif(not BIN, reason='CORPUS names no environment')
@pytest.mark.parametrize(('name', 'experiment', 'outcome'), CELLS)
def test_a_server_is_judged_as_it_is(name, experiment, outcome):
    start = partial(own_server, command(name))
    verdict = measure(experiment, partial(start, pace=try_out(start, 'wsgiapp:app')))
    assert verdict.outcome == outcome, verdict.evidence
    assert re.search(NAMED.get((name, experiment.__name__), ''), verdict.evidence)
