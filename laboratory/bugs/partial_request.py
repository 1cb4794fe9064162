"""reads a whole request, and its body"""
import os
import random

from laboratory.instruments.apps.wsgi_probes import ALL_BYTES
from laboratory.instruments.client import fetch, request
from laboratory.instruments.experiment import Case, about, bug, passed
from laboratory.instruments.views import exchange
from laboratory.instruments.wsgi import PROBES


def experiment(server, step):
    body = ALL_BYTES + b'\r\n\r\n' + os.urandom(4096 - len(ALL_BYTES) - 4)
    data = post(body, 'X-Padding: ' + 'x' * 2000)
    wrong = differs(server, body, data[:1500], data[1500:3000], data[3000:])
    step('A request comes in three pieces; the application answers with the body that it gets', exchange)
    if wrong:
        return bug('partial', wrong)
    for size in 1, random.randrange(2, 20), random.randrange(100_000, 300_000):
        body = os.urandom(size)
        data = post(body)
        pieces = [data] if size == 1 else [data[:-size], data[-size:]]
        if wrong := differs(server, body, *pieces):
            step(f'A request comes in {len(pieces)} pieces, the second of which is its body'
                 if len(pieces) > 1 else 'A request with a body of one byte comes', exchange)
            return bug('partial', wrong)
    return passed('it reads requests that come in pieces, with bodies of 1 to some 100,000 bytes')


def post(body, *headers):
    return request('POST', '/body', *headers, body=body)


def differs(server, body, *pieces):
    """What is wrong with the reply to a request, which should be its body; '' for nothing."""
    reply = fetch(server, *pieces)
    if reply.body == body:
        return ''
    same = len(os.path.commonprefix([reply.body, body]))
    got = (reply if reply.status != 200 else f'{len(reply.body)} bytes' if len(reply.body) != len(body)
           else f'as many, but other ones from byte {same + 1} on')
    return f'instead of the {len(body)} bytes of the body, the client gets {got}'


CASES = {
    'partial': Case(
        'reads only part of the request',
        'head -c 4096 /dev/zero | curl -s -m 5 --data-binary @- localhost:8888/body | wc -c',
        r'(?m)^(?!4096$)\d+$',
        'You see a number other than 4096: you call recv() once, and treat that as the whole request.',
        """
        The application sends back the body that it got:
        {see}
        How many of the 4096 bytes have come?

        TCP carries bytes, not messages: one read may give you only part of a request. Read on until the
        blank line that ends the headers. One of them says how many bytes of body follow: read only these.

        In handle_one_request(), read from self.client_fd.makefile('rb') in a with block: readline() up to
        the blank line, then read() what Content-Length says, for an io.BytesIO that is wsgi.input."""),
}
BUG = about(
    globals(), apps=PROBES,
    witness='instead of the 4096 bytes of the body, the client gets 1024 bytes',
    predict='A request of 6 KB comes in three pieces. How much of its body does the application get?',
    why='recv() returns what has come so far. Only the request itself says where it ends.')
