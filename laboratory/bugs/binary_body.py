"""leaves a binary body intact"""
from laboratory.instruments.apps.wsgi_probes import ALL_BYTES
from laboratory.instruments.client import get
from laboratory.instruments.experiment import Case, about, bug, passed
from laboratory.instruments.views import exchange
from laboratory.instruments.wsgi import PROBES


def experiment(server, step):
    reply = get(server, '/binary')
    step('The application answers with all 256 byte values', exchange)
    if reply.body == ALL_BYTES:
        return passed('all 256 bytes arrive unchanged')
    return bug('changed', f'{len(reply.body)} bytes arrive, not the 256 that were sent')


CASES = {
    'changed': Case(
        'changes the bytes of a body', 'curl -s -m 2 localhost:8888/binary | od -An -v -t u1',
        r'\A(?!\s+0 +1 +2 (?s:.*) 254 255\n)',
        'You see other numbers than 0 to 255 in order: you decode, strip or split what you should pass on.',
        """
        The application sends all 256 byte values:
        {see}
        The numbers should go from 0 to 255. Which is the first that is missing or different?

        A body is bytes, not text: any of the 256 values, those of a line end too. None of them means
        anything to the server, so pass them on as they are. Only the head is text.

        In finish_response(), and in write() if you have it, nothing may decode(), strip() or split the body,
        or format it. Encode only the head, with 'latin-1', and send head + body with sendall()."""),
}
BUG = about(
    globals(), apps=PROBES,
    predict='A body holds all 256 byte values, those of line ends too. Which ones does the client get?',
    why='no byte of a body means anything to the server, so it sends them all as they are.')
