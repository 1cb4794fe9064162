"""WSGI servers that many use, and what the experiments of parts 2 and 4 say of each: `make corpus`.

Each `bug` below can be shown with the bytes: NAMED has one thing that is said for it. CORPUS names
the bin folder of another environment than that of `make corpus`.
"""
import os
import re
from functools import partial

import pytest

from common.stages import ROOT
from laboratory.experiments.part2 import EXPERIMENTS
from laboratory.experiments.tables import EXPERIMENTS as ALL
from laboratory.experiments.verdicts import measure
from laboratory.instruments.own import own_server, try_out

BIN = os.environ.get('CORPUS') or ROOT / '.venv-corpus/bin'
COMMANDS = {  # those that are not in wsgi_servers.py
    'gunicorn': 'gunicorn --bind 127.0.0.1:{port}',
    'gunicorn_threads': 'gunicorn -w 3 -k gthread --threads 2 --bind 127.0.0.1:{port}',
    'waitress': 'waitress-serve --listen=127.0.0.1:{port}',
    'granian': 'granian --interface wsgi --port {port}',
    'hypercorn': 'hypercorn --bind 127.0.0.1:{port} wsgi:{app}',
    'granian_workers': 'granian --interface wsgi --workers 2 --port {port}',
    'uwsgi_master': 'uwsgi --master --processes 2 --http-socket 127.0.0.1:{port} --need-app --module',
    'uwsgi': 'uwsgi --http-socket 127.0.0.1:{port} --need-app --module',
}
EXPECTED = """
server             hello environ whole_request whole_response validator binary_body outlives refuses promises
gunicorn           pass  pass    pass          bug            pass      pass        pass     bug     pass
gunicorn_threads   pass  pass    pass          bug            pass      pass        pass     bug     pass
waitress           pass  pass    pass          pass           pass      pass        pass     bug     bug
granian            pass  pass    pass          bug            pass      pass        bug      bug     bug
hypercorn          pass  bug     pass          bug            bug       pass        bug      bug     bug
uwsgi              pass  pass    pass          bug            pass      pass        bug      bug     bug
wsgiref            pass  pass    pass          bug            pass      pass        bug      bug     bug
wsgiref_threads    pass  pass    pass          bug            pass      pass        bug      bug     bug
werkzeug           pass  pass    pass          bug            bug       pass        bug      bug     bug
werkzeug_threads   pass  pass    pass          bug            bug       pass        pass     bug     bug
werkzeug_processes pass  pass    pass          bug            bug       pass        pass     bug     bug
cheroot            pass  bug     pass          pass           pass      pass        bug      bug     bug
cherrypy           pass  bug     pass          pass           pass      pass        bug      bug     bug
gevent             pass  pass    pass          pass           pass      pass        bug      bug     bug
eventlet           pass  bug     pass          bug            bug       pass        bug      bug     bug
twisted            pass  pass    pass          pass           bug       pass        pass     bug     bug
tornado            pass  pass    pass          bug            pass      pass        bug      pass    bug
paste              pass  bug     pass          bug            pass      pass        bug      bug     bug
uvicorn            pass  pass    pass          bug            pass      pass        pass     bug     bug
part2_forks        pass  pass    pass          pass           pass      pass        pass     pass    pass
part2_prefork      pass  pass    pass          pass           pass      pass        pass     pass    pass
part2_threads      pass  pass    pass          pass           pass      pass        pass     pass    pass
"""
NAMED = {  # what is said of it, for one, with the bytes that came
    'gunicorn': {
        'whole_response': "exc_info before the headers: 200 with b''", 'refuses': 'no Host: 200',
    },
    'gunicorn_threads': {
        'whole_response': "exc_info before the headers: 200 with b''", 'refuses': 'no Host: 200',
    },
    'waitress': {
        'refuses': 'two Hosts: 200', 'promises': 'a body for HEAD',
    },
    'granian': {
        'whole_response': r'write\(\): 500', 'outlives': 'looks complete',
        'refuses': 'a chunk without a size',
        'promises': r'no start_response\(\): 200',
    },
    'hypercorn': {
        'environ': 'SERVER_PORT is [0-9]', 'whole_response': r'write\(\): 500', 'validator': 'SERVER_PORT',
        'outlives': 'exit: the server ends', 'refuses': "b'hell'", 'promises': 'twice: 200',
    },
    'uwsgi': {
        'whole_response': 'Date: none', 'outlives': 'exit: the server ends', 'refuses': "b'5.r.nh'",
        'promises': 'Smuggled',
    },
    'wsgiref': {
        'whole_response': "200 with b''", 'outlives': 'looks complete', 'refuses': 'in words: 200',
        'promises': 'Smuggled',
    },
    'wsgiref_threads': {
        'whole_response': "200 with b''", 'outlives': 'looks complete', 'refuses': 'in words: 200',
        'promises': 'Smuggled',
    },
    'werkzeug': {
        'whole_response': 'Date is sent twice', 'validator': 'REMOTE_PORT',
        'outlives': 'cancelled: the server ends', 'refuses': 'no Host', 'promises': 'Smuggled',
    },
    'werkzeug_threads': {
        'whole_response': 'Date is sent twice', 'validator': 'REMOTE_PORT', 'refuses': 'no Host',
        'promises': 'Smuggled',
    },
    'werkzeug_processes': {
        'whole_response': 'Date is sent twice', 'validator': 'REMOTE_PORT', 'refuses': 'no Host',
        'promises': 'Smuggled',
    },
    'cheroot': {
        'environ': "HTTP_X_PROBE is 'two'", 'outlives': 'exit: the server ends', 'refuses': "b'two'",
        'promises': 'Smuggled',
    },
    'cherrypy': {
        'environ': "HTTP_X_PROBE is 'two'", 'outlives': 'exit: the server ends', 'refuses': "b'two'",
        'promises': 'Smuggled',
    },
    'gevent': {
        'outlives': 'exit: the server ends', 'refuses': 'no Host', 'promises': 'a body for HEAD',
    },
    'eventlet': {
        'environ': "SERVER_PROTOCOL is 'HTTP/1.0'", 'whole_response': 'streaming',
        'validator': 'headers_raw', 'outlives': 'exit: the server ends', 'refuses': 'no Host',
        'promises': 'Smuggled',
    },
    'twisted': {
        'validator': 'HTTP_CONTENT_TYPE', 'refuses': 'no Host', 'promises': 'Smuggled',
    },
    'tornado': {
        'whole_response': 'streaming', 'outlives': 'exit: the server ends',
        'promises': 'a status with an ESC',
    },
    'paste': {
        'environ': "PATH_INFO is '/café x'", 'whole_response': 'Date is sent twice',
        'outlives': 'looks complete', 'refuses': 'no Host', 'promises': 'Smuggled',
    },
    'uvicorn': {
        'whole_response': 'Date is sent twice', 'refuses': 'a Host with a space', 'promises': 'twice: 200',
    },
}
PART4 = """
server              gunicorn gunicorn_threads waitress cheroot uwsgi uwsgi_master granian granian_workers
few_processes       pass     pass             pass     pass    pass  pass         pass    pass
killed_workers      pass     pass             -        -       -     pass         -       bug
killed_supervisor   pass     pass             -        -       -     pass         -       bug
stuck_application   pass     bug              bug      bug     bug   bug          bug     bug
drip                pass     bug              bug      bug     bug   bug          pass    pass
slow_client         pass     pass             pass     pass    pass  pass         pass    pass
keep_alive          bug      pass             bug      bug     bug   bug          pass    pass
chunked_body        pass     pass             pass     pass    bug   bug          pass    pass
smuggling           pass     pass             bug      bug     pass  pass         pass    pass
idle_clients        bug      bug              bug      bug     bug   bug          pass    pass
waiting_application bug      pass             pass     pass    bug   bug          pass    pass
non_reader          bug      bug              pass     bug     bug   bug          pass    pass
late_clock          pass     pass             ?        pass    pass  pass         bug     bug
no_descriptors      ?        bug              bug      bug     ?     ?            bug     bug
stop_mid_reply      pass     pass             bug      bug     bug   bug          pass    pass
restart_backlog     pass     pass             -        -       -     pass         -       pass
reload              pass     pass             -        -       -     pass         -       pass
flat                pass     pass             pass     pass    pass  pass         pass    pass
"""  # - stands for: no worker, ? for: not tested
ROWS = [row.split() for row in EXPECTED.strip().splitlines()]


def command(name):
    """What starts it; the application is written behind it, or where {app} is."""
    return f'{BIN}/' + COMMANDS.get(name, f'python tests/corpus/wsgi_servers.py {name}')


COLUMNS = list(zip(*map(str.split, PART4.strip().splitlines()), strict=True))
SHORT = {'no worker': '-', 'not tested': '?'}


@pytest.mark.parametrize(('name', 'outcomes'), [(name, outcomes) for name, *outcomes in COLUMNS[1:]])
def test_a_wsgi_server_is_judged_by_its_workers_and_connections(name, outcomes):
    start = partial(own_server, command(name), patience=35)
    verdicts = {experiment.__name__: measure(experiment, start) for experiment in ALL['part4']}
    assert list(verdicts) == list(COLUMNS[0][1:])
    found = [SHORT.get(verdict.outcome, verdict.outcome) for verdict in verdicts.values()]
    assert found == outcomes, verdicts


@pytest.mark.parametrize(('name', 'outcomes'), [(name, outcomes) for name, *outcomes in ROWS[1:]])
def test_a_wsgi_server_is_judged_by_what_it_does(name, outcomes):
    start = partial(own_server, command(name))
    start = partial(start, pace=try_out(start('wsgiapp:app')))
    verdicts = {experiment.__name__: measure(experiment, start) for experiment in EXPERIMENTS}
    assert [verdict.outcome for verdict in verdicts.values()] == outcomes, verdicts
    for experiment, said in NAMED.get(name, {}).items():
        assert re.search(said, verdicts[experiment].evidence)
