"""reads a whole request, and its body"""
from laboratory.instruments.apps.wsgi_probes import ALL_BYTES
from laboratory.instruments.client import fetch, request
from laboratory.instruments.experiment import Case, about, bug, passed
from laboratory.instruments.views import exchange
from laboratory.instruments.wsgi import PROBES


def experiment(server, step):
    body = ALL_BYTES * 16
    data = request('POST', '/body', 'X-Padding: ' + 'x' * 2000, body=body)
    response = fetch(server, data[:1500], data[1500:3000], data[3000:])
    step('A request comes in three pieces; the application answers with the body that it gets', exchange)
    if response.body == body:
        return passed(f'it reads a request of {len(data)} bytes that comes in three pieces')
    got = f'{len(response.body)} bytes' if response.status == 200 else response
    return bug('partial', f'instead of the {len(body)} bytes of the body, the client gets {got}')


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
