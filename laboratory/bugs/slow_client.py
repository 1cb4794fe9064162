"""waits for a slow client"""
import time
from contextlib import suppress

from laboratory.instruments import process, views, wsgi
from laboratory.instruments.apps.wsgi_probes import TEN_MEGABYTES
from laboratory.instruments.client import connect, fetch, narrow, readable, request
from laboratory.instruments.experiment import Case, about

PAUSE = 0.1  # seconds between what a slow reader takes
BODY = bytes(range(256)) * 256
PIECES = [BODY[at:at + 16384] for at in range(0, len(BODY), 16384)]
SLOW = 2.5  # seconds for which a reader is slow: more than SEND_TIMEOUT, and no limit that others have


def experiment(server, step):
    posted = fetch(server, request('POST', '/body', f'{wsgi.LENGTH}{len(BODY)}'), *PIECES)
    step('A client has sent its request slowly', views.exchange)
    wrong = [] if posted.body == BODY else [('slow_request', 'a slow request', str(posted))]
    with connect(server) as client:
        narrow(client)
        client.sendall(request('GET', '/one-piece'))
        data, end = bytearray(), time.monotonic() + SLOW
        with suppress(ConnectionError):
            while readable(client, process.A_WHILE) and (piece := client.recv(32768)):
                data += piece
                time.sleep(max(0.0, min(PAUSE, end - time.monotonic())))
        step('A client has read its reply slowly', views.connections)
    if data.partition(b'\r\n\r\n')[2].count(b'x') < TEN_MEGABYTES:
        wrong.append(('slow_reader', 'a slow reader', f'{len(data)} of {TEN_MEGABYTES} bytes arrive'))
    right = 'a slow request is answered, and a slow reader gets all of its reply'
    return wsgi.all_that_is_wrong(wrong, right, 2)


CASES = {
    'slow_reader': Case(
        'cuts off a slow reader',
        'curl -s localhost:8888/one-piece | '
        '(for i in $(seq 35); do head -c 100000; sleep 1; done; cat) | wc -c', '',
        'You see a number other than 10000000: you end a connection although its client goes on reading.', """
        Be a slow client:
        {see}
        Some bytes do not arrive: you have given up on a client that was still at work.

        A client that is slow is not stuck. It may take as long as it needs for a large body, as long as
        some bytes move now and then. So limit each pause in which no byte moves, and not the whole reply.

        In send(), call client_fd.send() in a loop, and go on after the bytes that it took: each call has
        all the time of settimeout(), which sendall() shares out among all bytes. Likewise call recv() until
        all of a body is there."""),
    'slow_request': Case(
        'cuts off a slow request',
        r"(printf 'POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n'; "
        'for i in s l o w; do sleep 1; printf $i; done; sleep 1) | curl -s -m 8 telnet://localhost:8888',
        r'(?s)\A(?!.*slow)',
        'You see no "slow" at the end: you end a connection although its client goes on sending.'),
}
BUG = about(
    globals(), apps=wsgi.PROBES, env={'SEND_TIMEOUT': '2'},  # more than a pause, less than all
    predict='A client pauses after each 32 KB of a reply of 10 MB. Does it get all of it?',
    why='a limit for a whole reply cuts off a slow client. One for each send() cuts off one that is gone.')
