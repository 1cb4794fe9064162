"""A page in headless Chromium, driven through its DevTools protocol, which is JSON on two pipes."""
import json
import os
import select
import signal
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager

from laboratory.instruments import kernel
from tests.test_browser import OPTIONS

CODES = {'Tab': 9, 'Enter': 13}  # the keys that Chromium itself answers to


@contextmanager
def browser(chromium):
    """A page to drive; Chromium, with all its processes and files, is gone at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as pipes:
        (answers, to_us), (from_us, commands) = os.pipe(), os.pipe()
        answers = pipes.enter_context(open(answers, 'rb', buffering=0))
        commands = pipes.enter_context(open(commands, 'wb', buffering=0))
        with open(to_us), open(from_us):
            process = subprocess.Popen(
                ['bash', '-c', f'exec "$@" 3<&{from_us} 4>&{to_us}', 'bash', chromium, *OPTIONS,
                 '--remote-debugging-pipe', f'--user-data-dir={folder}', 'about:blank'],
                env={**os.environ, 'TMPDIR': folder}, pass_fds=[from_us, to_us], start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield Page(answers, commands)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Page:
    """call() is a command of the protocol; events has what Chromium has told meanwhile."""

    def __init__(self, answers, commands):
        self.answers, self.commands = answers, commands
        self.number, self.session, self.events, self.unread = 0, {}, [], b''
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = {
            'sessionId': self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']}
        for domain in 'Page', 'Network', 'Runtime', 'Log':
            self.call(f'{domain}.enable')

    def message(self):
        while b'\0' not in self.unread:
            assert select.select([self.answers], [], [], kernel.LIMIT)[0], 'Chromium does not answer'
            read = self.answers.read(1 << 20)
            assert read, 'Chromium has ended'
            self.unread += read
        message, _, self.unread = self.unread.partition(b'\0')
        return json.loads(message)

    def call(self, method, **params):
        self.number += 1
        command = {'id': self.number, 'method': method, 'params': params, **self.session}
        self.commands.write(json.dumps(command).encode() + b'\0')
        while (message := self.message()).get('id') != self.number:
            self.events.append(message)
        assert 'error' not in message, message
        return message['result']

    def do(self, script):
        """The value of an expression in the page; a promise is awaited."""
        result = self.call('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in result, result
        return result['result'].get('value')

    def open(self, url, width=1280):
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=800, deviceScaleFactor=1,
                  mobile=False)
        self.look()
        self.call('Page.navigate', url='about:blank')
        self.events.clear()
        self.call('Page.navigate', url=url)
        self.do('new Promise(done => document.readyState === "complete" ? done() : onload = done)')

    def look(self, media='', scheme='light'):
        """Show it on a screen or on paper (print), in light or in dark."""
        self.call('Emulation.setEmulatedMedia', media=media,
                  features=[{'name': 'prefers-color-scheme', 'value': scheme}])

    def press(self, *keys):
        for key in keys:
            for what in {'type': 'keyDown', 'text': key if len(key) == 1 else ''}, {'type': 'keyUp'}:
                self.call('Input.dispatchKeyEvent', key=key, windowsVirtualKeyCode=CODES.get(key, 0), **what)

    def drag(self, x, y, to_x):
        for kind, at in ('mousePressed', x), ('mouseMoved', to_x), ('mouseReleased', to_x):
            self.call('Input.dispatchMouseEvent', type=kind, x=at, y=y, button='left', buttons=1)

    def text(self, name):
        return self.do(f'document.getElementById({name!r}).innerText')
