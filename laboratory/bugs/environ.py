"""passes on all of the request in the environ"""
import json
import random
import secrets
from typing import NamedTuple

from rich.text import Text

from laboratory.instruments.client import fetch, request
from laboratory.instruments.experiment import Case, about, bug
from laboratory.instruments.output import printable
from laboratory.instruments.views import exchange
from laboratory.instruments.wsgi import PROBES, all_that_is_wrong

LATIN = 'decoded as latin-1, a character for each byte'
SECTION = 'PEP 3333, environ Variables and Unicode Issues, and RFC 3875, section 4.1'
READS = ['read(7)', 'readline()', 'for line in', 'readlines(44)']  # in this order, see use_streams()


class Missing:
    def __repr__(self):
        return 'nothing'


MISSING = Missing()


class Due(NamedTuple):
    """What a variable should be."""
    words: str
    is_right: callable  # is given its value, or MISSING


def exactly(text):
    return Due(repr(text) + f', {LATIN}' * (not text.isascii()), lambda value: value == text)


TEXT = Due('some text', lambda value: isinstance(value, str) and value)
TEXT_OR_NOTHING = Due('text', lambda value: value is MISSING or isinstance(value, str))
TRUE_OR_FALSE = Due('True or False', lambda value: isinstance(value, bool | int))
GONE = Due('nothing: that was in the request before', lambda value: value is MISSING)
EMPTY = Due("'' or nothing", lambda value: value is MISSING or value == '')


def ask_for_all(server):
    """A request with all that one may have: its bytes, and what is due in the environ."""
    one, two, three, four, five = (secrets.token_hex(3) for _ in range(5))
    query, kind = f'a={one}&b=%20{two}?c', f'text/x-{three}; charset=utf-8'
    host, body = f'localhost:{server.port}', bytes(random.randrange(1, 5000))
    data = request('POST', f'/{two}/caf%C3%A9%20+%2541?{query}', f'X-{four}: {one}', f'x-{four}: {two}',
                   f'X-Colon: {three}:{one}: x', f'X-Latin: caf\xc3\xa9 {five}', f'Content-Type: {kind}',
                   body=body)
    return data.replace(b'localhost', host.encode(), 1), {
        'PATH_INFO': exactly(f'/{two}/caf\xc3\xa9 +%41'), 'QUERY_STRING': exactly(query),
        f'HTTP_X_{four.upper()}': Due(
            repr(f'{one}, {two}'), lambda value: value in (f'{one}, {two}', f'{one},{two}')),
        'HTTP_X_COLON': exactly(f'{three}:{one}: x'),
        'HTTP_X_LATIN': exactly(f'caf\xc3\xa9 {five}'), 'HTTP_HOST': exactly(host),
        'REQUEST_METHOD': exactly('POST'), 'CONTENT_TYPE': exactly(kind),
        'CONTENT_LENGTH': exactly(str(len(body))), 'SCRIPT_NAME': EMPTY, 'SERVER_NAME': TEXT,
        'SERVER_PORT': exactly(str(server.port)), 'SERVER_PROTOCOL': exactly('HTTP/1.1'),
        'REMOTE_ADDR': TEXT_OR_NOTHING, 'SERVER_SOFTWARE': TEXT_OR_NOTHING,
        'wsgi.version': Due('(1, 0)', lambda value: value == [1, 0]), 'wsgi.url_scheme': exactly('http'),
        'wsgi.multithread': TRUE_OR_FALSE, 'wsgi.multiprocess': TRUE_OR_FALSE, 'wsgi.run_once': TRUE_OR_FALSE,
    }


def ask_for_little(before):
    """The same for a request without what a request need not have; before is what the last one was due."""
    path = f'/{secrets.token_hex(3)}'
    stale = [name for name in before if name.startswith('HTTP_X')]
    data = request('GET', path).replace(b'HTTP/1.1', b'HTTP/1.0')
    return data, {
        'REQUEST_METHOD': exactly('GET'), 'PATH_INFO': exactly(path), 'QUERY_STRING': EMPTY,
        'CONTENT_TYPE': Due(GONE.words, lambda value: not before['CONTENT_TYPE'].is_right(value)),
        'CONTENT_LENGTH': Due("'' or nothing", lambda value: EMPTY.is_right(value) or value == '0'),
        'SERVER_PROTOCOL': exactly('HTTP/1.0'), **dict.fromkeys(stale, GONE),
    }


def unlike(seen, due):
    """{variable: (what it is, what is due)} of those that are wrong."""
    values = {name: seen.get(name, MISSING) for name in due}
    return {name: (repr(value), due[name].words) for name, value in values.items()
            if not due[name].is_right(value)}


def streams(server):
    """The same for wsgi.input and wsgi.errors, which an application uses."""
    lines = [b'%b\n' % secrets.token_hex(4).encode() for _ in range(8)]  # of 9 bytes
    body = b''.join(lines)
    seen = answer(server, request('POST', '/streams', 'Content-Type: text/plain', body=body))
    parts = dict(zip(READS, [body[:7], body[7:9], body[9:27], body[27:]], strict=True))
    wrong = [(f'{read} gives {seen.get(read)}', repr(part)) for read, part in parts.items()
             if seen.get(read) != repr(part)]
    found = {'wsgi.input': wrong[0]} if wrong else {}
    if seen.get('wsgi.errors') != 'written':
        found['wsgi.errors'] = str(seen.get('wsgi.errors')), 'a file with write(), writelines() and flush()'
    return found


def answer(server, data):
    """What the application answers, {} where it is not run."""
    try:
        return json.loads(fetch(server, data).body)
    except ValueError:
        return {}


def experiment(server, step):
    data, due = ask_for_all(server)
    seen = answer(server, data)
    step('A client asks the application for its environ', exchange)
    if not seen:
        return bug('environ', f'the application was not run: {server.last_exchange[1]}')
    wrong = unlike(seen, due) | streams(server)
    data, due_now = ask_for_little(due)
    wrong = unlike(answer(server, data), due_now) | wrong
    names = sorted(wrong, key=lambda name: [*due, 'wsgi.input', 'wsgi.errors'].index(name))
    if wrong:
        step('It gets this', lambda server: compared({name: wrong[name] for name in names}))
    complaints = [(case_of(name), name, '{} instead of {}'.format(*wrong[name])) for name in names]
    if complaints:
        complaints[0] = *complaints[0][:2], f'{complaints[0][2]} ({SECTION})'
    number = len(due) + 2
    return all_that_is_wrong(complaints, f'{number} variables in the environ are right', number)


def case_of(name):
    return 'environ' if name.startswith(('HTTP_', 'PATH', 'QUERY')) else 'variable'


def compared(wrong):
    """What is wrong, each value in full below its variable."""
    return Text('\n'.join(f'{name}\n    is         {printable(value)}\n    should be  {printable(words)}'
                          for name, (value, words) in wrong.items()), overflow='fold')


CASES = {
    'environ': Case(
        'passes on only part of the request', "curl 'localhost:8888/caf%C3%A9?a=1'",
        r'"PATH_INFO": "/caf%C3%A9\?a=1"(?!.*USER_AGENT)',
        'You see no environ at all, or one without HTTP_USER_AGENT, or a PATH_INFO with %C3 or ?a=1 in it: '
        'you pass on the target as it came, and have not parsed the headers.',
        """
        The application answers with its environ:
        {see}
        Look at PATH_INFO, and look for the User-Agent of curl. What else did curl send that is not there?

        The application wants the decoded path, the query string as it came, and a variable for each header,
        as text in which a character is a byte (latin-1): é is two bytes in UTF-8, and becomes Ã©.

        In get_environ(), split self.path with partition('?'), and decode the path with
        urllib.parse.unquote_to_bytes(). Take the header lines in parse_request(): X-Probe becomes
        HTTP_X_PROBE. If it comes twice, join the values with ', '. See PEP 3333."""),
    'variable': Case(
        'leaves a variable of the environ out, or sets it wrongly',
        "curl -s -d a=1 localhost:8888/a; curl -s localhost:8888/b", '',
        'You see a variable that is missing or wrong, such as no CONTENT_LENGTH for the first request, or '
        'that of the first one in the second.',
        """
        The application answers with its environ, once for a form and once for a plain GET:
        {see}
        Look for the variable that the test has named. How does it come into your environ, and what from?

        A framework finds the form of a client by CONTENT_TYPE, and reads as much of wsgi.input as
        CONTENT_LENGTH says: without them a form is empty. They have no HTTP_ in front. Each request has an
        environ of its own.

        In get_environ(), go through the list "environ Variables" of PEP 3333. All but those of wsgi. are
        text: str(8888). wsgi.input is a file of bytes, such as io.BytesIO, wsgi.errors one of text, such as
        sys.stderr."""),
}
BUG = about(
    globals(), apps=PROBES,
    witness='PATH_INFO: ',
    predict='A client asks for /caf%C3%A9%20x?a=1. What does the application find in PATH_INFO?',
    why='the application gets the parts of a request, and not the request. The server takes it apart.')
