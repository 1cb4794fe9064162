"""Servers that many use, and what the experiments say of each: `make corpus`.

It is not a part of `make test`, since it takes minutes. CORPUS names the bin folder of another
environment than that of `make corpus`.
"""
import os
import re
import shlex
from functools import partial

import pytest

from common.stages import ROOT
from laboratory.bugs import bugs_of
from laboratory.instruments.experiment import BUG, PASS, measure
from laboratory.instruments.own import own_server, try_out

BIN = shlex.quote(os.environ.get('CORPUS') or str(ROOT / '.venv-corpus/bin'))
OWN = 'python wsgi_servers.py'
CONCURRENT = 'pass, pass, pass, no child, no handler, no child, no child'
ONE_BY_ONE = 'bug, pass, pass, no child, no handler, no child, no child'
PART3 = {  # the command, and the outcomes in the order of the experiments
    'gunicorn -b 127.0.0.1:$PORT wsgiapp:app': ONE_BY_ONE,
    'gunicorn -b 127.0.0.1:$PORT -w 3 wsgiapp:app': CONCURRENT,
    'gunicorn -b 127.0.0.1:$PORT --threads 4 wsgiapp:app': CONCURRENT,
    'uvicorn --port $PORT wsgi_servers:asgi': CONCURRENT,
    'uvicorn --port $PORT --workers 2 wsgi_servers:asgi': CONCURRENT,
    'hypercorn -b 127.0.0.1:$PORT wsgi_servers:asgi': CONCURRENT,
    'hypercorn -b 127.0.0.1:$PORT -w 2 wsgi_servers:asgi': CONCURRENT,
    'waitress-serve --listen 127.0.0.1:$PORT wsgiapp:app': CONCURRENT,
    'granian --interface wsgi --port $PORT wsgiapp:app': CONCURRENT,
    'granian --interface asgi --port $PORT wsgi_servers:asgi': CONCURRENT,
    f'{OWN} cheroot wsgiapp:app': CONCURRENT,
    f'{OWN} werkzeug_threads wsgiapp:app': CONCURRENT,
    f'{OWN} werkzeug_processes wsgiapp:app': 'pass, pass, pass, pass, no handler, not tested, pass',
    f'{OWN} gevent wsgiapp:app': CONCURRENT,
    f'{OWN} eventlet wsgiapp:app': CONCURRENT,
    f'{OWN} twisted wsgiapp:app': CONCURRENT,
    f'{OWN} tornado wsgiapp:app': CONCURRENT,
    f'{OWN} aiohttp wsgiapp:app': CONCURRENT,
}
COMMANDS = {  # of those that are not in wsgi_servers.py; the application is written behind, or at {app}
    'gunicorn': 'gunicorn --bind 127.0.0.1:{port}',
    'gunicorn_threads': 'gunicorn -w 3 -k gthread --threads 2 --bind 127.0.0.1:{port}',
    'waitress': 'waitress-serve --listen=127.0.0.1:{port}',
    'granian': 'granian --interface wsgi --port {port}',
    'granian_workers': 'granian --interface wsgi --workers 2 --port {port}',
    'hypercorn': 'hypercorn --bind 127.0.0.1:{port} wsgi:{app}',
    'uwsgi': 'uwsgi --http-socket 127.0.0.1:{port} --need-app --module',
    'uwsgi_master': 'uwsgi --master --processes 2 --http-socket 127.0.0.1:{port} --need-app --module',
}
GUNICORN = {
    'partial_response': 'exc_info before the headers: 200', 'malformed_request': 'no Host: 200',
}
CHEROOT = {
    'environ': 'HTTP_X_', 'fatal_failure': 'exit: the server ends',
    'malformed_request': "b'two'", 'broken_promise': 'Smuggled',
}
WERKZEUG = {
    'partial_response': 'Date is sent twice', 'validator': 'REMOTE_PORT', 'malformed_request': 'no Host',
    'broken_promise': 'Smuggled',
}
WSGIREF = {
    'partial_response': "200 with b''", 'fatal_failure': 'looks complete',
    'malformed_request': 'in words: 200', 'broken_promise': 'Smuggled',
}
PART2 = {  # the bugs that each has, and one thing that is said of it, with the bytes that came
    'gunicorn': GUNICORN,
    'gunicorn_threads': GUNICORN,
    'waitress': {'malformed_request': 'two Hosts: 200', 'broken_promise': 'a body for HEAD'},
    'granian': {
        'environ': r'readline\(\)', 'partial_response': r'write\(\): 500', 'fatal_failure': 'looks complete',
        'malformed_request': 'a chunk without a size', 'broken_promise': r'no start_response\(\): 200',
    },
    'hypercorn': {
        'environ': 'SERVER_PORT: [0-9]', 'partial_response': r'write\(\): 500', 'validator': 'SERVER_PORT',
        'fatal_failure': 'exit: the server ends', 'malformed_request': "b'hell'",
        'broken_promise': 'twice: 200',
    },
    'uwsgi': {
        'partial_response': 'Date: none', 'fatal_failure': 'exit: the server ends',
        'malformed_request': "b'5.r.nh'", 'broken_promise': 'Smuggled',
    },
    'wsgiref': WSGIREF,
    'wsgiref_threads': WSGIREF,
    'werkzeug': {**WERKZEUG, 'fatal_failure': 'cancelled: the server ends'},
    'werkzeug_threads': WERKZEUG,
    'werkzeug_processes': WERKZEUG,
    'cheroot': CHEROOT,
    'cherrypy': CHEROOT,
    'gevent': {
        'fatal_failure': 'exit: the server ends', 'malformed_request': 'no Host',
        'broken_promise': 'a body for HEAD',
    },
    'eventlet': {
        'environ': "SERVER_PROTOCOL: 'HTTP/1.0'", 'partial_response': 'streaming',
        'validator': 'headers_raw', 'fatal_failure': 'exit: the server ends', 'malformed_request': 'no Host',
        'broken_promise': 'Smuggled',
    },
    'twisted': {
        'validator': 'HTTP_CONTENT_TYPE', 'fatal_failure': r'close\(\)', 'malformed_request': 'no Host',
        'broken_promise': 'Smuggled',
    },
    'tornado': {
        'partial_response': 'streaming', 'fatal_failure': 'exit: the server ends',
        'broken_promise': 'a status with an ESC',
    },
    'paste': {
        'environ': "PATH_INFO: '/.*/café ", 'partial_response': 'Date is sent twice',
        'fatal_failure': 'looks complete', 'malformed_request': 'no Host', 'broken_promise': 'Smuggled',
    },
    'uvicorn': {
        'partial_response': 'Date is sent twice', 'malformed_request': 'a Host with a space',
        'broken_promise': 'twice: 200',
    },
    'part2_forks': {},
    'part2_prefork': {},
    'part2_threads': {},
}
PART4 = """
server              gunicorn gunicorn_threads waitress cheroot uwsgi uwsgi_master granian granian_workers
many_processes      pass     pass             -        -       -     pass         -       pass
dead_worker         pass     pass             -        -       -     pass         -       bug
orphaned_workers    pass     pass             -        -       -     pass         -       bug
stuck_worker        pass     bug              bug      bug     bug   bug          bug     bug
slowloris           pass     bug              bug      bug     bug   bug          pass    pass
slow_client         pass     pass             pass     pass    pass  pass         pass    pass
one_request         bug      pass             bug      bug     bug   bug          pass    pass
chunked_body        pass     pass             pass     pass    bug   bug          pass    pass
smuggling           pass     pass             bug      bug     pass  pass         pass    pass
idle_clients        bug      bug              bug      bug     bug   bug          pass    pass
waiting_application bug      pass             pass     pass    bug   bug          pass    pass
non_reader          bug      bug              pass     bug     bug   bug          pass    pass
late_clock          pass     pass             ?        pass    pass  pass         bug     bug
no_descriptors      ?        bug              bug      bug     ?     ?            bug     bug
lost_reply          pass     pass             bug      bug     bug   bug          pass    pass
lost_restart        pass     pass             -        -       -     pass         -       pass
lost_request        pass     pass             -        -       -     pass         -       pass
leaks               pass     pass             pass     pass    pass  pass         pass    pass
"""  # - stands for: no worker, ? for: not tested
COLUMNS = list(zip(*map(str.split, PART4.strip().splitlines()), strict=True))
SHORT = {'no worker': '-', 'not tested': '?'}


def server(command):
    """A way to start it, in this folder."""
    return partial(own_server, f'cd tests/corpus; PATH={BIN}:$PATH; {command}')


def wsgi(name):
    return server(COMMANDS.get(name, f'{OWN} {name}'))


def results(part, start):
    """{name of a bug: Result} of all that a part has."""
    return {bug.name: measure(bug, start) for bug in bugs_of(part)}


@pytest.mark.parametrize('command', PART3)
def test_a_server_that_many_use_is_judged_by_what_it_does(command):
    start = server(command)
    found = results('part3', partial(start, pace=try_out(start()).pace))
    assert ', '.join(result.outcome for result in found.values()) == PART3[command], found


@pytest.mark.parametrize('name', PART2)
def test_a_wsgi_server_has_those_bugs_and_no_others(name):
    start = wsgi(name)
    found = results('part2', partial(start, pace=try_out(start('wsgiapp:app')).pace))
    bad = {bug: result for bug, result in found.items() if result.outcome != PASS}
    assert list(bad) == [bug for bug in found if bug in PART2[name]], bad
    for bug, result in bad.items():
        assert result.outcome == BUG
        assert re.search(PART2[name][bug], '; '.join([result.detail, *result.others]))


@pytest.mark.parametrize(('name', 'outcomes'), [(name, outcomes) for name, *outcomes in COLUMNS[1:]])
def test_a_wsgi_server_is_judged_by_its_workers_and_connections(name, outcomes):
    found = results('part4', partial(wsgi(name), patience=35))
    assert [SHORT.get(result.outcome, result.outcome) for result in found.values()] == outcomes, found
