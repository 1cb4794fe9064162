"""A real browser: headless Chromium shows what the servers say."""
import os
import signal
import subprocess

import pytest

CHROMIUM = [
    'chromium', '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
]


@pytest.mark.parametrize(('stage', 'app', 'text'), [
    ('part1', None, 'Hello, World!'),
    ('part3-v1.0', None, 'Hello, World!'),
    ('part3-final', None, 'Hello, World!'),
    ('part2-final', 'flaskapp:app', 'Hello world from Flask!'),
])
def test_a_browser_shows_the_greeting(serve, tool, tmp_path, stage, app, text):
    tool('chromium')
    server = serve(stage, app)
    url = f'http://localhost:{server.port}/hello'
    run = subprocess.run([*CHROMIUM, f'--user-data-dir={tmp_path}', '--dump-dom', url],
                         text=True, capture_output=True, timeout=60)
    assert text in run.stdout
    assert 'GET /hello HTTP/1.1' in server.output()


def test_a_browser_asks_for_the_page_and_then_for_an_icon(serve, tool, tmp_path):
    tool('chromium')
    server = serve('part3-final')
    stays_open = [f'--user-data-dir={tmp_path}', '--remote-debugging-port=0']
    browser = subprocess.Popen([*CHROMIUM, *stays_open, f'http://localhost:{server.port}/hello'],
                               stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        server.wait_for_output('GET /favicon.ico HTTP/1.1')
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
    requests = [line for line in server.output().splitlines() if line.startswith('GET')]
    assert requests[0] == 'GET /hello HTTP/1.1'
