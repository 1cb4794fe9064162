"""Fixtures of all tests."""
import os
import random
import shutil
import signal

import pytest

from common.stages import find_stage
from laboratory.instruments.process import stage_server

# what `make test` exports is not for the commands that the tests run
for name in ('MAKEFLAGS MAKELEVEL MFLAGS HOST PORT PEP475 APP FROM TO PART STAGE SERVER REQUEST WATCH GUESS '
             'NO_COLOR FORCE_COLOR PYTHONDONTWRITEBYTECODE WORKERS PATIENCE IDLE_TIMEOUT REQUEST_TIMEOUT '
             'SEND_TIMEOUT APP_TIMEOUT STOP_TIMEOUT THREADS QUICK ONLY WRITE').split():
    os.environ.pop(name, None)

# a shell starts a job in the background with SIGINT ignored, and the servers would inherit that;
# the others end the tests as Ctrl-C does, with their servers
for signum in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
    if signum == signal.SIGINT or signal.getsignal(signum) != signal.SIG_IGN:  # as nohup does
        signal.signal(signum, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Mix the tests that wait with those that work, always in the same way; the longest begin first."""
    random.Random(1).shuffle(items)
    items.sort(key=lambda item: not item.get_closest_marker('long'))


@pytest.fixture
def serve(request):
    """serve('part3-final') starts that stage and returns its ServerProcess; it ends with the test."""
    def start(stage_name, *args, **options):
        server = stage_server(find_stage(stage_name), *args, **options).__enter__()
        request.addfinalizer(server.stop)
        return server

    return start


@pytest.fixture
def tool():
    """tool('curl') skips the test where that command is missing; in CI it fails."""
    def need(name):
        if shutil.which(name) is None:
            (pytest.fail if os.environ.get('CI') else pytest.skip)(f'{name} is not installed')
        return name
    return need
