"""Servers that many use, graded: `make corpus`. Not a part of `make test`, since it takes minutes."""
from functools import partial

import pytest

from common.stages import ROOT
from laboratory.experiments.tables import EXPERIMENTS
from laboratory.experiments.verdicts import measure
from laboratory.instruments.own import own_server, try_out

BIN = ROOT / '.venv-corpus/bin'
CONCURRENT = 'pass, pass, pass, no child, no handler, no child, no child'
ONE_BY_ONE = 'bug, pass, pass, no child, no handler, no child, no child'
SERVE = 'python apps.py'
# (part, command in this folder: verdicts, in the order of the experiments)
EXPECTED = {
    ('part3', 'gunicorn -b 127.0.0.1:$PORT apps:app'): ONE_BY_ONE,
    ('part3', 'gunicorn -b 127.0.0.1:$PORT -w 3 apps:app'): CONCURRENT,
    ('part3', 'gunicorn -b 127.0.0.1:$PORT --threads 4 apps:app'): CONCURRENT,
    ('part3', 'uvicorn --port $PORT apps:asgi'): CONCURRENT,
    ('part3', 'uvicorn --port $PORT --workers 2 apps:asgi'): CONCURRENT,
    ('part3', 'hypercorn -b 127.0.0.1:$PORT apps:asgi'): CONCURRENT,
    ('part3', 'hypercorn -b 127.0.0.1:$PORT -w 2 apps:asgi'): CONCURRENT,
    ('part3', 'waitress-serve --listen 127.0.0.1:$PORT apps:app'): CONCURRENT,
    ('part3', 'granian --interface wsgi --port $PORT apps:app'): CONCURRENT,
    ('part3', 'granian --interface asgi --port $PORT apps:asgi'): CONCURRENT,
    ('part3', f'{SERVE} cheroot'): CONCURRENT,
    ('part3', f'{SERVE} werkzeug-threads'): CONCURRENT,
    ('part3', f'{SERVE} werkzeug-processes'): 'pass, pass, pass, pass, no handler, not tested, pass',
    ('part3', f'{SERVE} gevent'): CONCURRENT,
    ('part3', f'{SERVE} eventlet'): CONCURRENT,
    ('part3', f'{SERVE} twisted'): CONCURRENT,
    ('part3', f'{SERVE} tornado'): CONCURRENT,
    ('part3', f'{SERVE} aiohttp'): CONCURRENT,
}


@pytest.mark.parametrize(('part', 'command'), EXPECTED)
def test_a_server_that_many_use_is_judged_by_what_it_does(part, command):
    start = partial(own_server, f'cd {ROOT}/tests/corpus; PATH={BIN}:$PATH; {command}')
    start = partial(start, pace=try_out(start(None if part == 'part3' else 'wsgiapp:app')))
    verdicts = [measure(experiment, start) for experiment in EXPERIMENTS[part]]
    assert ', '.join(verdict.outcome for verdict in verdicts) == EXPECTED[part, command], verdicts
