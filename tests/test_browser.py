"""A real browser: headless Chromium shows what the servers say."""
import os
import signal
import subprocess
import tempfile

import pytest

from tests.helpers import wait_for_output

OPTIONS = [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
]


@pytest.fixture
def browse(tool):
    """browse(url, option) starts Chromium there; it is ended, and its files removed, with the test."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browsers = []

        def start(url, option):
            browsers.append(subprocess.Popen(
                [tool('chromium'), *OPTIONS, f'--user-data-dir={folder}', option, url],
                env={**os.environ, 'TMPDIR': folder}, text=True, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
            return browsers[-1]

        yield start
        for browser in browsers:
            if browser.poll() is None:
                os.killpg(browser.pid, signal.SIGKILL)
            browser.communicate()


def test_a_browser_shows_the_greeting(serve, browse):
    server = serve('part1')
    page, _ = browse(f'http://localhost:{server.port}/hello', '--dump-dom').communicate(timeout=60)
    assert 'Hello, World!' in page
    assert 'GET /hello HTTP/1.1' in server.output()


def test_a_browser_asks_for_the_page_and_then_for_an_icon(serve, browse):
    server = serve('part3-final')
    browse(f'http://localhost:{server.port}/hello', '--remote-debugging-port=0')  # stays open
    wait_for_output(server, 'GET /favicon.ico HTTP/1.1')
    requests = [line for line in server.output().splitlines() if line.startswith('GET')]
    assert requests[0] == 'GET /hello HTTP/1.1'
