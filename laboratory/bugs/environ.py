"""passes on the query string, headers and decoded path"""
import json
import re

from laboratory.instruments.client import get
from laboratory.instruments.experiment import Case, about, bug
from laboratory.instruments.views import exchange
from laboratory.instruments.wsgi import PROBES, all_that_is_wrong

ENVIRON = {  # what is due in it, a pattern; None where it may be absent
    'PATH_INFO': '/caf\xc3\xa9 x', 'QUERY_STRING': 'a=1&b=%20', 'SCRIPT_NAME': '|None',
    'HTTP_X_PROBE': 'one, ?two', 'HTTP_HOST': 'localhost', 'SERVER_NAME': '.+', 'SERVER_PORT': '[0-9]+',
    'SERVER_PROTOCOL': 'HTTP/1.1', 'REMOTE_ADDR': '127.0.0.1|::ffff:127.0.0.1|::1|None',
}


def experiment(server, step):
    response = get(server, '/caf%C3%A9%20x?a=1&b=%20', 'X-Probe: one', 'x-probe: two')
    step('A client asks the application for its environ', exchange)
    try:
        seen = json.loads(response.body)
    except ValueError:
        return bug('environ', f'the application was not run: {response}')
    wrong = []
    for name, due in ENVIRON.items():
        value = seen.get(name)
        if not isinstance(value, str | None) or not re.fullmatch(due, str(value)):
            instead = '' if re.search('[+|]', due) else f' instead of {due.replace("?", "")!r}'
            wrong.append(('environ', f'{name} is {value!r}{instead}'))
    if wrong:
        wrong[-1] = 'environ', f'{wrong[-1][1]} (PEP 3333, environ Variables, and RFC 3875, section 4.1)'
    return all_that_is_wrong(wrong, f'{len(ENVIRON)} variables in the environ are right')


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
}
BUG = about(
    globals(), apps=PROBES,
    witness="PATH_INFO is '/caf%C3%A9%20x?a=1&b=%20' instead of '/cafÃ© x'",
    predict='A client asks for /caf%C3%A9%20x?a=1. What does the application find in PATH_INFO?',
    why='the application gets the parts of a request, and not the request. The server takes it apart.')
