"""The page of a replay, in a real browser: headless Chromium, spoken to through its DevTools protocol."""
import json
import os
import shutil
import subprocess
import tempfile

import pytest

from laboratory.instruments.replay_page import index, page
from tests.test_browser import OPTIONS

ODD = '</script><script>document.title="owned"</script><img src=x onerror="document.title=1"> \x1b[31m \u202e \udcff'
SERVER = {'pid': 101, 'parent': None, 'state': 'runs', 'in': None, 'line': 1, 'pending': [], 'thread_of': None}
BOTH = {'3': 'listening', '4': 'connection 1'}
OPEN = {'client': 'client 1', 'server_end': 'ESTABLISHED', 'client_end': 'ESTABLISHED', 'to_server': 0, 'to_client': 0}


def step(who, kind, says, **more):
    return {'who': who, 'kind': kind, 'says': says, **more}


def run_of(steps, name='a-run', **more):
    source = ['while True:', '    client_fd, client_addr = listen_socket.accept()', '    pid = os.fork()',
              *['    pass'] * 60]
    moments = [{'step': 3, 'says': 'two processes on one line'}, {'step': len(steps), 'says': 'the end'}]
    return {'name': name, 'scene': 'One client.', 'command': 'make replay', 'file': 'server.py',
            'source': source, 'moments': moments, 'steps': steps, **more}


LEAK = run_of([
    step('server', 'line', 'It begins.', line=1, set={
        'processes': {'server': {**SERVER, 'fds': {'3': 'listening'}}}, 'connections': {}, 'clients': {},
        'listening': {'port': 8888, 'backlog': 0, 'limit': 5}, 'output': 'Serving\n'}),
    step('server', 'returns', 'A client is there.', line=2, call='accept(3) = 4', set={
        'processes': {'server': {**SERVER, 'line': 2, 'fds': BOTH}}, 'connections': {'1': OPEN},
        'clients': {'client 1': {'sent': 'GET / HTTP/1.1\\r\\n', 'got': '', 'state': 'waits'}}}),
    step('server', 'returns', 'Now there are two.', line=3, call='fork() = 102', set={'processes': {
        'child 1': {**SERVER, 'pid': 102, 'parent': 'server', 'line': 3, 'fds': BOTH}}}),
    step('child 1', 'returns', 'It closes its copy.', line=4, call='close(4) = 0', set={'processes': {
        'child 1': {**SERVER, 'pid': 102, 'parent': 'server', 'line': 4, 'fds': {'3': 'listening'}}}}),
    step('server', 'waits', 'It waits.', line=2, call='accept(3)', set={'processes': {
        'server': {**SERVER, 'state': 'waits', 'in': 'accept()', 'line': 2, 'fds': BOTH}}}),
    step('child 1', 'exit', 'It has ended.', call='exit(0)', set={'processes': {
        'child 1': {**SERVER, 'pid': 102, 'parent': 'server', 'state': 'zombie', 'line': None, 'fds': {}},
        'server': {**SERVER, 'state': 'waits', 'in': 'accept()', 'line': 2, 'fds': BOTH,
                   'pending': ['SIGCHLD']}}}),
    step('client 1', 'client', 'It has left.', set={
        'connections': {'1': {**OPEN, 'server_end': 'CLOSE_WAIT', 'client_end': 'FIN_WAIT2'}},
        'clients': {'client 1': {'sent': 'GET / HTTP/1.1\\r\\n', 'got': 'Hello', 'state': 'has left'}}}),
])


def crowd():
    """A run of 300 clients, each with a child that stays as a zombie."""
    yield LEAK['steps'][0]
    for number in range(1, 301):
        child = {**SERVER, 'pid': 101 + number, 'parent': 'server', 'line': 3}
        yield step(f'client {number}', 'client', 'It connects.', set={
            'clients': {f'client {number}': {'sent': 'GET', 'got': '', 'state': 'waits'}},
            'connections': {number: {**OPEN, 'client': f'client {number}'}}})
        yield step('server', 'returns', 'fork', line=3, set={'processes': {
            f'child {number}': {**child, 'fds': {'4': f'connection {number}'}}}})
        yield from [step(f'child {number}', 'line', '', line=line) for line in range(4, 14)]
        yield step(f'child {number}', 'exit', 'It has ended.', set={'processes': {
            f'child {number}': {**child, 'state': 'zombie', 'line': None, 'fds': {}}}})


class Browser:
    """Chromium with one page. call() is a command of its protocol; events has what it told meanwhile."""

    def __init__(self, chromium, folder):
        ours, theirs = os.pipe(), os.pipe()
        words = ['bash', '-c', f'exec "$@" 3<&{theirs[0]} 4>&{ours[1]}', 'bash', chromium, *OPTIONS,
                 '--remote-debugging-pipe', f'--user-data-dir={folder}', 'about:blank']
        self.process = subprocess.Popen(
            words, env={**os.environ, 'TMPDIR': folder}, pass_fds=[theirs[0], ours[1]],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs[0])
        os.close(ours[1])
        self.answers, self.commands = open(ours[0], 'rb'), open(theirs[1], 'wb')
        self.number, self.session, self.events, self.rest = 0, {}, [], b''
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        self.session = {'sessionId': session}
        for domain in 'Page', 'Network', 'Runtime', 'Accessibility':
            self.call(f'{domain}.enable')

    def message(self):
        while b'\0' not in self.rest:
            read = self.answers.read1(1 << 20)
            assert read, 'Chromium has ended'
            self.rest += read
        message, _, self.rest = self.rest.partition(b'\0')
        return json.loads(message)

    def call(self, method, **params):
        self.number += 1
        command = {'id': self.number, 'method': method, 'params': params, **self.session}
        self.commands.write(json.dumps(command).encode() + b'\0')
        self.commands.flush()
        while (message := self.message()).get('id') != self.number:
            self.events.append(message)
        assert 'error' not in message, message
        return message['result']

    def do(self, script):
        """The value of an expression in the page, awaited."""
        result = self.call('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in result, result
        return result['result'].get('value')

    def size(self, width, height=800):
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1,
                  mobile=False)

    def media(self, media='', scheme='light'):
        features = [{'name': 'prefers-color-scheme', 'value': scheme}]
        self.call('Emulation.setEmulatedMedia', media=media, features=features)

    def press(self, *keys):
        for key in keys:
            text = {'Enter': '\r'}.get(key, key if len(key) == 1 else '')
            code = {'Tab': 9, 'Enter': 13}.get(key, 0)
            for kind in 'keyDown', 'keyUp':
                self.call('Input.dispatchKeyEvent', type=kind, key=key, text=text if kind == 'keyDown' else '',
                          windowsVirtualKeyCode=code)

    def step(self):
        return self.do("document.getElementById('count').textContent")

    def says(self):
        return self.do("document.getElementById('says').textContent")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.commands.close()
        self.answers.close()


@pytest.fixture(scope='module')
def chromium():
    if shutil.which('chromium') is None:
        (pytest.fail if os.environ.get('CI') else pytest.skip)('chromium is not installed')
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser('chromium', folder)
        yield browser
        browser.close()


@pytest.fixture
def look(chromium, tmp_path):
    """look(run, '#3') opens the page of a run, as a file, at that step."""
    def open_page(run, address='', width=1280):
        (tmp_path / 'replay.html').write_text(page(run), 'utf-8')
        chromium.size(width)
        chromium.media()
        chromium.call('Page.navigate', url='about:blank')
        chromium.events.clear()
        chromium.call('Page.navigate', url=f'file://{tmp_path}/replay.html{address}')
        chromium.do('new Promise(done => document.readyState === "complete" ? done() : onload = done)')
        return chromium
    return open_page


BODY = 'document.body.outerHTML'


def test_stepping_to_the_end_and_back_gives_the_same_page(look):
    browser = look(LEAK)
    forth = [browser.do(f'show({n}), {BODY}') for n in range(len(LEAK['steps']))]
    back = [browser.do(f'show({n}), {BODY}') for n in reversed(range(len(LEAK['steps'])))]
    assert back[::-1] == forth
    assert look(LEAK, '#4').do(BODY) == forth[3]


def test_the_keyboard_is_enough(look):
    browser = look(LEAK)
    steps = []
    for key in 'ArrowRight', 'ArrowRight', 'ArrowLeft', 'End', 'ArrowRight', 'Home', 'ArrowLeft', '2', '1':
        browser.press(key)
        steps.append(browser.step().partition(' ')[0])
    assert ''.join(steps) == '232771173'
    browser.press(' ')
    assert browser.do("document.getElementById('play').textContent") == 'Pause'
    browser.press('ArrowRight')
    assert browser.do("document.getElementById('play').textContent") == 'Play'
    seen = []
    for _ in range(9):
        browser.press('Tab')
        seen.append(browser.do('''(() => { const { id, tagName } = document.activeElement
            return [id || tagName, getComputedStyle(document.activeElement).outlineStyle] })()'''))
    assert [name for name, _ in seen][:8] == ['A', 'A', 'source', 'scroll', 'back', 'play', 'next', 'track']
    assert all(outline == 'solid' for _, outline in seen[:8])


def test_the_address_is_the_step(look):
    browser = look(LEAK, '#3')
    assert browser.says() == 'Now there are two.'
    browser.do("new Promise(done => { addEventListener('hashchange', done); location.hash = '#5' })")
    assert browser.says() == 'It waits.'
    browser.press('ArrowRight')
    browser.do("new Promise(done => setInterval(() => location.hash === '#6' && done(), 20))")
    for address, shown in ('#99', '7 of 7'), ('#nonsense', '1 of 7'), ('#0', '1 of 7'), ('#-3', '1 of 7'):
        assert look(LEAK, address).step() == shown


def test_after_fork_two_markers_are_on_one_line_and_two_wires_lead_to_one_connection(look):
    browser = look(LEAK, '#3')
    stands = browser.do("document.querySelector('#source .active > span').innerText")
    assert stands.split()[:2] == ['S', 'C1']
    wires = browser.do("[...document.querySelectorAll('#wires path')].map(one => one.getAttribute('d'))")
    assert len(wires) == 4
    assert len({wire.split()[-2:][-1] + wire.split()[-2] for wire in wires}) == 2
    kernel = browser.do("document.querySelector('[data-name=\"connection 1\"] .held').textContent")
    assert kernel == 'open in Sserver 4, C1child 1 4'
    browser.press('ArrowRight')
    assert browser.do("document.querySelector('.fd.was').textContent") == '4closed: connection 1'


def test_a_zombie_a_pending_signal_and_close_wait_are_said_in_words(look):
    words = look(LEAK, '#7').do("document.getElementById('kernel').innerText")
    for word in 'zombie', 'pending: SIGCHLD', 'CLOSE_WAIT', 'FIN_WAIT2', 'waits in accept()':
        assert word in words


@pytest.mark.parametrize('run', [LEAK, run_of([*crowd()]), run_of([step('server', 'line', ODD * 9)], scene=ODD)],
                         ids=['leak', 'crowd', 'odd'])
def test_on_a_telephone_nothing_is_wider_than_the_page(look, run):
    browser = look(run, width=360)
    for n in {0, 2, 3, 5, len(run['steps']) - 1}:
        browser.do(f'show({n})')
        assert browser.do('document.documentElement.scrollWidth - document.documentElement.clientWidth') == 0
    code, kernel = browser.do("['code', 'kernel'].map(id => document.getElementById(id).offsetTop)")
    assert code < kernel


def test_on_paper_is_the_whole_step_and_no_button(look):
    browser = look(LEAK, '#3')
    browser.media('print', 'dark')
    assert browser.do('''['source', 'scroll', 'clients', 'output'].filter(id => {
        const box = document.getElementById(id)
        return box.scrollHeight > box.clientHeight && getComputedStyle(box).overflowY !== 'visible' })''') == []
    assert browser.do("document.getElementById('buttons').offsetHeight") == 0
    assert browser.do('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)'
    assert browser.call('Page.printToPDF')['data']
    assert browser.do("document.getElementById('board').className") == ''


CONTRAST = '''(() => {
  const light = name => {
    const probe = document.body.appendChild(document.createElement('i'))
    probe.style.color = `var(--${name})`
    const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    probe.remove()
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const pairs = [['ink', 'paper'], ['ink', 'panel'], ['ink', 'new'], ['quiet', 'paper'], ['quiet', 'panel'],
    ['quiet', 'new'], ...[0, 1, 2, 3, 4, 5].map(n => ['on', `p${n}`])]
  return pairs.filter(pair => {
    const [a, b] = pair.map(light).sort((a, b) => b - a)
    return (a + 0.05) / (b + 0.05) < 4.5
  })
})()'''


@pytest.mark.parametrize('scheme, paper', [('light', 'rgb(250, 248, 244)'), ('dark', 'rgb(23, 25, 29)')])
def test_light_and_dark_can_be_read(look, scheme, paper):
    browser = look(LEAK)
    browser.media(scheme=scheme)
    assert browser.do('getComputedStyle(document.body).backgroundColor') == paper
    assert browser.do(CONTRAST) == []


def test_no_request_leaves_the_page(look):
    browser = look(LEAK)
    browser.press('End', 'Home', '1')
    requests = [event['params']['request']['url'] for event in browser.events
                if event['method'] == 'Network.requestWillBeSent']
    assert [url.rpartition('/')[2] for url in requests if not url.startswith('data:')] == ['replay.html']
    browser.do("fetch('http://127.0.0.1:9/').catch(() => 0)")
    browser.do("new Promise(done => { const image = new Image(); image.onerror = done; image.src = 'x.png' })")
    assert len([event for event in browser.events if event['method'] == 'Network.responseReceived'
                and not event['params']['response']['url'].startswith(('data:', 'file:'))]) == 0


def test_what_was_sent_is_text_and_never_markup(look):
    browser = look(run_of(
        [step('server', 'line', ODD, call=ODD, line=1, set={
            'processes': {'server': {**SERVER, 'in': ODD, 'fds': {'3': ODD, '4': 'connection 1'}, 'pending': [ODD]}},
            'connections': {'1': {**OPEN, 'client': ODD, 'server_end': ODD, 'to_client': 10_000_000}},
            'clients': {'client 1': {'sent': ODD, 'got': ODD, 'state': ODD}},
            'listening': None, 'output': ODD})],
        name=ODD, scene=ODD, file=ODD, source=[ODD], moments=[{'step': 1, 'says': ODD}]))
    assert browser.do('document.title').startswith('Replay: </script>')
    assert browser.do("document.querySelectorAll('img').length + document.scripts.length") == 2
    shown = browser.do('document.body.innerText')
    assert '\x1b' not in shown and '\u202e' not in shown
    assert shown.count(r'\x1b[31m \u202e \udcff') >= 12
    assert '10,000,000 bytes' in shown
    assert not [event for event in browser.events if event['method'] == 'Runtime.exceptionThrown']


def test_a_run_of_300_clients_is_folded(look):
    browser = look(run_of([*crowd()]))
    browser.press('End', 'ArrowLeft', 'ArrowRight', 'Home', '2')
    assert browser.do("document.querySelectorAll('#board article').length") < 20
    assert browser.do("document.getElementById('processes').innerText").count('zombie') <= 5
    assert '297 zombies' in browser.do("document.getElementById('processes').innerText")
    assert browser.do("document.querySelectorAll('#marks > *').length") < 9 * 1000


def test_a_screen_reader_hears_the_sentence_and_finds_the_parts(look):
    nodes = look(LEAK, '#3').call('Accessibility.getFullAXTree')['nodes']
    found = {(node['role']['value'], node.get('name', {}).get('value')) for node in nodes if not node['ignored']}
    for part in [('navigation', 'Moments'), ('region', 'Clients'), ('region', 'server.py'), ('slider', 'Step'),
                 ('region', 'What the kernel knows'), ('list', 'descriptors of child 1'), ('button', 'Play'),
                 ('image', 'for the server to read: nothing')]:
        assert part in found
    assert any(node['role']['value'] == 'status' for node in nodes)
    assert any(role == 'StaticText' and name == 'server, child 1 stand here' for role, name in found)


def test_the_list_names_each_run():
    shown = index([LEAK, run_of([], name='b-run')])
    assert '<a href="a-run.html">a-run</a>' in shown and '<a href="b-run.html">b-run</a>' in shown
    assert '&lt;img' in index([run_of([], scene='<img>')])
