"""The page of a replay in a real browser."""
import os
import shutil

import pytest

from common import stages
from laboratory.instruments.replay_page import index, page
from tests import devtools

REPLAYS = sorted(file for file in (stages.ROOT / 'replays').glob('*.html') if file.stem != 'index')
ERRORS = 'Runtime.exceptionThrown', 'Log.entryAdded'
ODD = ('</script><script>document.title = 1</script><img src=x onerror="document.title = 2">'
       ' \x1b[31m \u202e \udcff')
SERVER = {'pid': 101, 'parent': None, 'state': 'runs', 'line': 1, 'pending': []}
CHILD = {**SERVER, 'pid': 102, 'parent': 'server'}
WAITS = {**SERVER, 'state': 'waits', 'in': 'accept()', 'line': 2}
BOTH = {'3': 'listening', '4': 'connection 1'}
OPEN = {'client': 'client 1', 'server_end': 'ESTABLISHED', 'client_end': 'ESTABLISHED',
        'to_server': 0, 'to_client': 0}
EMPTY = {'connections': {}, 'clients': {}, 'output': '',
         'listening': {'port': 8888, 'backlog': 0, 'limit': 5}}


def step(who, kind, says, line=None, call=None, **changes):
    facts = {'line': line, 'call': call, 'set': changes}
    return {'who': who, 'kind': kind, 'says': says, **{key: value for key, value in facts.items() if value}}


def run_of(*steps, **more):
    return {'name': 'leak', 'scene': 'One client.', 'file': 'server.py', 'steps': steps,
            'source': ['while True:', '    client_fd = accept()', '    os.fork()', *['    pass'] * 60],
            'moments': [{'step': 3, 'says': 'two on one line'}, {'step': len(steps), 'says': 'end'}], **more}


LEAK = run_of(
    step('server', 'line', 'It begins.', 1, **EMPTY,
         processes={'server': {**SERVER, 'fds': {'3': 'listening'}}}),
    step('server', 'returns', 'A client is there.', 2, 'accept(3) = 4', connections={'1': OPEN},
         processes={'server': {**SERVER, 'line': 2, 'fds': BOTH}},
         clients={'client 1': {'sent': r'GET / HTTP/1.1\r\n', 'got': '', 'state': 'waits'}}),
    step('server', 'returns', 'Now there are two.', 3, 'fork() = 102',
         processes={'server': {**SERVER, 'line': 3, 'fds': BOTH},
                    'child 1': {**CHILD, 'line': 3, 'fds': BOTH}}),
    step('child 1', 'returns', 'It closes its copy.', 4, 'close(4) = 0',
         processes={'child 1': {**CHILD, 'line': 4, 'fds': {'3': 'listening'}}}),
    step('server', 'waits', 'It waits.', 2, 'accept(3)', processes={'server': {**WAITS, 'fds': BOTH}}),
    step('child 1', 'exit', 'It has ended.', call='exit(0)', processes={
        'child 1': {**CHILD, 'state': 'zombie', 'line': None, 'fds': {}},
        'server': {**WAITS, 'fds': BOTH, 'pending': ['SIGCHLD']}}),
    step('client 1', 'client', 'It has left.',
         connections={'1': {**OPEN, 'server_end': 'CLOSE_WAIT', 'client_end': 'FIN_WAIT2'}}))


def steps_of_a_crowd():
    """300 clients, each with a child that stays as a zombie: 3901 steps."""
    yield LEAK['steps'][0]
    for number in range(1, 301):
        client, child = f'client {number}', f'child {number}'
        facts = {**CHILD, 'pid': 101 + number, 'line': 3}
        yield step(client, 'client', 'It connects.', connections={str(number): {**OPEN, 'client': client}},
                   clients={client: {'sent': 'GET', 'got': '', 'state': 'waits'}})
        yield step('server', 'returns', 'It forks.', 3, processes={
            child: {**facts, 'fds': {'4': f'connection {number}'}}})
        yield from [step(child, 'line', '', line) for line in range(4, 14)]
        yield step(child, 'exit', 'It has ended.', processes={
            child: {**facts, 'state': 'zombie', 'line': None, 'fds': {}}})


CROWD = run_of(*steps_of_a_crowd())
ODDITIES = run_of(
    step('server', 'line', ODD, 1, ODD, listening=None, output=ODD,
         processes={'server': {**SERVER, 'fds': {'3': ODD, '4': 'connection 1'}, 'pending': [ODD]}},
         connections={'1': {**OPEN, 'client': ODD, 'server_end': ODD, 'to_client': 10_000_000}},
         clients={'client 1': {'sent': ODD * 9, 'got': 'a' * 900, 'state': ODD}}),
    name=ODD, scene=ODD, file=ODD, source=[ODD], moments=[{'step': 1, 'says': ODD}])


@pytest.fixture(scope='module')
def browser():
    if not shutil.which('chromium'):
        (pytest.fail if os.environ.get('CI') else pytest.skip)('chromium is not installed')
    with devtools.browser('chromium') as shown:
        yield shown


@pytest.fixture
def replay(browser, tmp_path):
    """replay(run, '#3') opens the page of that run, a file, at a step."""
    def start(run, address='', **options):
        (tmp_path / 'replay.html').write_text(page(run), 'utf-8')
        browser.open(f'file://{tmp_path}/replay.html{address}', **options)
        return browser
    return start


def test_stepping_to_the_end_and_back_gives_the_same_page(replay):
    shown = replay(LEAK)
    forth = [shown.do(f'show({n}), document.body.outerHTML') for n in range(7)]
    assert [shown.do(f'show({n}), document.body.outerHTML') for n in reversed(range(7))][::-1] == forth
    assert len(set(forth)) == 7
    assert replay(LEAK, '#4').do('document.body.outerHTML') == forth[3]


def test_the_keyboard_is_enough(replay):
    shown, steps = replay(LEAK), ''
    for key in 'Right', 'Right', 'Left', 'Up', 'End', 'Right', 'Home', 'Left', '2', '1':
        shown.press(f'Arrow{key}' if key in ('Right', 'Left', 'Up') else key)
        steps += shown.text('count')[0]
    assert steps == '2322771173'
    shown.press(' ')
    assert shown.text('play') == 'Pause'
    shown.press('ArrowRight')
    assert shown.text('play') == 'Play'
    reached = []
    for _ in range(8):
        shown.press('Tab')
        reached.append(shown.do('document.activeElement.id || document.activeElement.tagName'))
        assert shown.do('getComputedStyle(document.activeElement).outlineStyle') == 'solid'
    assert reached == ['A', 'A', 'source', 'scroll', 'back', 'play', 'next', 'track']
    shown.press('ArrowUp', 'ArrowUp', 'ArrowDown')
    assert shown.text('count') == '5 of 7'


def test_the_timeline_can_be_dragged(replay):
    shown = replay(LEAK)
    left, top, width = shown.do('(box => [box.left, box.top, box.width])(track.getBoundingClientRect())')
    shown.drag(left + 2, top + 40, left + width * 0.5)
    assert shown.text('count') == '4 of 7'


def test_the_address_is_the_step(replay):
    shown = replay(LEAK, '#3')
    assert shown.text('says') == 'Now there are two.'
    shown.do("new Promise(done => { addEventListener('hashchange', done); location.hash = '#5' })")
    assert shown.text('says') == 'It waits.'
    shown.press('ArrowRight')
    shown.do("new Promise(done => setInterval(() => location.hash === '#6' && done(), 20))")
    for address, count in ('#99', '7 of 7'), ('#nonsense', '1 of 7'), ('#0', '1 of 7'), ('#-3', '1 of 7'):
        assert replay(LEAK, address).text('count') == count


def test_after_fork_two_markers_are_on_one_line_and_both_descriptors_lead_to_one_connection(replay):
    shown = replay(LEAK, '#3')
    assert shown.do("document.querySelector('.active .hidden').textContent") == 'server, child 1 stand here'
    assert shown.do("document.querySelectorAll('.active .badge').length") == 2
    wires = shown.do("[...document.querySelectorAll('#wires path')].map(wire => wire.getAttribute('d'))")
    ends = [tuple(wire.split()[-2:]) for wire in wires]
    assert len(ends) == 4 and ends[0] == ends[2] != ends[1] == ends[3]
    shown.press('ArrowRight')
    assert shown.do("document.querySelector('.fd.was').textContent") == '4closed: connection 1'


def test_the_kernel_s_view_is_there_as_text(replay):
    words = replay(LEAK, '#7').text('kernel')
    for word in ('zombie', 'pending: SIGCHLD', 'CLOSE_WAIT', 'FIN_WAIT2', 'to server: FIN',
                 'waits in accept()'):
        assert word in words


def test_a_sentence_that_changes_nothing_lights_up_what_it_names(replay):
    changed = "[...document.querySelectorAll('.changed')].map(part => part.textContent)"
    hang = step('client 1', 'client', 'Client 1 hangs: the server still has connection 1.')
    shown = replay(run_of(*LEAK['steps'], hang), '#8')
    assert shown.do(changed) == ['waits', '4connection 1', 'open in Sserver 4', '']
    zombie = step('child 2', 'exit', 'One SIGCHLD is pending already.', processes={
        'child 2': {**CHILD, 'state': 'zombie', 'fds': {}}})
    assert replay(run_of(*LEAK['steps'], zombie), '#8').do(changed) == ['⚑ pending: SIGCHLD']


def test_what_is_printed_is_appended_and_its_last_1000_characters_are_shown(replay):
    lines = [step('server', 'line', '', prints=f'{number}\n' * 200) for number in range(100, 103)]
    shown = replay(run_of(*LEAK['steps'], *lines), '#8')
    assert shown.do("by('output').textContent") == '100\n' * 200
    shown.press('End')
    assert shown.do("by('output').textContent") == '101\n' * 50 + '102\n' * 200


@pytest.mark.parametrize('width', [360, 900, 1280])
def test_what_has_changed_is_in_view(replay, width):
    connections = {str(number): OPEN for number in range(1, 8)}
    shown = replay(run_of(LEAK['steps'][0], step('server', 'line', '', connections=connections),
                          step('client 7', 'client', '', connections={'7': {**OPEN, 'to_server': 9}})),
                   '#3', width=width)
    top, bottom = shown.do('''(box => [box.top, box.bottom])(
        document.querySelector('#scroll .changed').getBoundingClientRect())''')
    above, below = shown.do('''[by('top').getBoundingClientRect().bottom,
        by('footer').getBoundingClientRect().top]''')
    assert above <= top < bottom <= below


@pytest.mark.parametrize('file', REPLAYS, ids=[file.stem for file in REPLAYS])
def test_each_replay_can_be_stepped_through_forth_and_back_on_a_telephone(browser, file):
    assert file.stat().st_size < 200_000
    browser.open(file.as_uri(), width=360)
    assert browser.do('''[...states.keys(), ...[...states.keys()].reverse()].filter(n => {
        show(n)
        return document.documentElement.scrollWidth > document.documentElement.clientWidth
    })''') == []
    assert [event for event in browser.events if event['method'] in ERRORS] == []


@pytest.mark.parametrize('run', [LEAK, CROWD, ODDITIES], ids=['leak', 'crowd', 'oddities'])
def test_on_a_telephone_nothing_is_wider_than_the_page(replay, run):
    shown = replay(run, width=360)
    for n in {0, 2, 3, 5, len(run['steps']) - 1}:
        shown.do(f'show({n})')
        assert shown.do('document.documentElement.scrollWidth <= document.documentElement.clientWidth')
    code, kernel = shown.do("['code', 'kernel'].map(id => document.getElementById(id).offsetTop)")
    assert code < kernel


def test_on_paper_is_the_whole_step_in_black_on_white(replay):
    shown = replay(LEAK, '#3')
    shown.look('print', 'dark')
    assert shown.do('''['source', 'scroll', 'clients', 'output'].map(by).filter(box =>
        box.scrollHeight > box.clientHeight && getComputedStyle(box).overflowY !== 'visible').length''') == 0
    assert shown.do("by('buttons').offsetHeight") == 0
    assert shown.do('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)'


CONTRAST = '''(() => {
  const brightness = name => {
    const probe = document.body.appendChild(document.createElement('i'))
    probe.style.color = `var(--${name})`
    const [red, green, blue] = getComputedStyle(probe).color.match(/\\d+/g).map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    probe.remove()
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
  }
  const pairs = ['ink', 'quiet'].flatMap(ink => ['paper', 'panel', 'new'].map(paper => [ink, paper]))
  return [...pairs, ...[0, 1, 2, 3, 4, 5].map(n => ['on', `p${n}`])].filter(pair => {
    const [dark, light] = pair.map(brightness).sort((a, b) => a - b)
    return (light + 0.05) / (dark + 0.05) < 4.5 // WCAG 2, level AA
  })
})()'''


@pytest.mark.parametrize('scheme, paper', [('light', 'rgb(250, 248, 244)'), ('dark', 'rgb(23, 25, 29)')])
def test_in_light_and_in_dark_it_can_be_read(replay, scheme, paper):
    shown = replay(LEAK)
    shown.look(scheme=scheme)
    assert shown.do('getComputedStyle(document.body).backgroundColor') == paper
    assert shown.do(CONTRAST) == []


def test_no_request_leaves_the_page(replay):
    shown = replay(LEAK)
    shown.press('End', 'Home', '1')
    urls = [event['params']['request']['url'] for event in shown.events
            if event['method'] == 'Network.requestWillBeSent']
    assert [url.rpartition('/')[2] for url in urls if not url.startswith('data:')] == ['replay.html']
    assert shown.do('''new Promise(done => {
        document.addEventListener('securitypolicyviolation', event => done(event.violatedDirective))
        fetch('http://127.0.0.1:9/').catch(() => setTimeout(done, 1000)) })''') == 'connect-src'


def test_what_was_sent_is_text_and_never_markup(replay):
    shown = replay(ODDITIES)
    assert shown.do('document.title').startswith('Replay: </script>')
    assert shown.do('[document.scripts.length, document.images.length]') == [2, 0]
    words = shown.do('document.body.innerText')
    assert '\x1b' not in words and '\u202e' not in words
    assert words.count(r'\x1b[31m \u202e \udcff') >= 12
    assert '10,000,000 bytes' in words


def test_a_run_of_300_clients_is_folded(replay):
    shown = replay(CROWD)
    shown.press('End', 'ArrowLeft', 'ArrowRight', 'Home', '2')
    assert 'and 297 more: 297 zombies' in shown.text('processes')
    assert 'and 298 more: 298 waits' in shown.text('clients')
    assert shown.do("document.querySelectorAll('article').length") < 20
    assert shown.do("document.querySelectorAll('#marks > *').length") < 9000


def test_a_screen_reader_finds_the_parts(replay):
    nodes = replay(LEAK, '#3').call('Accessibility.getFullAXTree')['nodes']
    found = {(node['role']['value'], node.get('name', {}).get('value'))
             for node in nodes if not node['ignored']}
    assert found >= {
        ('navigation', 'Moments'), ('region', 'Clients'), ('region', 'server.py'), ('slider', 'Step'),
        ('region', 'What the kernel knows'), ('list', 'descriptors of child 1'), ('button', 'Play'),
        ('StaticText', 'to server: empty'), ('StaticText', 'server, child 1 stand here')}
    assert 'status' in {role for role, _ in found}


def test_the_list_links_to_each_replay():
    shown = index([LEAK, {**LEAK, 'name': 'zombie', 'scene': '<img>'}])
    assert '<a href="leak.html">leak</a>' in shown and '<a href="zombie.html">zombie</a>' in shown
    assert '&lt;img&gt;' in shown and '7 steps' in shown
