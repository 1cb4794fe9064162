"""A real browser: headless Chromium shows what the servers say."""
import subprocess

import pytest

CHROMIUM = [
    'chromium', '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--dump-dom',
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
    run = subprocess.run([*CHROMIUM, f'--user-data-dir={tmp_path}', url],
                         text=True, capture_output=True, timeout=60)
    assert text in run.stdout
    assert 'GET /hello HTTP/1.1' in server.output()
