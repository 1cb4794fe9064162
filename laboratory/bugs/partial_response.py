"""sends the whole response: write(), exc_info, close(), streaming, Date"""
import email.utils
import socket
import time

from laboratory.instruments.apps.wsgi_probes import LATIN
from laboratory.instruments.client import connect, fetch, get, read_reply, readable, request
from laboratory.instruments.experiment import Case, about, its_own_end
from laboratory.instruments.wsgi import PROBES, closed_after, fifo, go_through


def streaming(server):
    data = request('GET', '/wait')
    with connect(server) as client:
        with fifo(server):
            client.sendall(data)
            early = server.wait_until(
                lambda: readable(client) and b'before, ' in client.recv(65536, socket.MSG_PEEK))
        reply = read_reply(client, server)
    server.last_exchange = data, reply
    if reply.body != b'before, after':
        return str(reply)
    return '' if early else ('a piece of the body is not sent until the next one is ready '
                             '(PEP 3333, Buffering and Streaming)')


def one_true_date(server):
    dates = get(server, '/').values('Date')
    sent = email.utils.parsedate_tz(dates[0]) if len(dates) == 1 else None
    if not sent or abs(email.utils.mktime_tz(sent) - time.time()) > 60:
        return f'{dates or "none"} is sent instead of one Date with the time now (RFC 9110, section 6.6.1)'


def own_headers(server):
    reply = get(server, '/own-headers')
    twice = [f'{name} is sent twice: {values} (RFC 9110, section 5.3)' for name in ('Date', 'Server')
             if len(values := reply.values(name)) > 1]
    return ', '.join(twice) if reply.status == 200 else str(reply)


def close(server):
    for method in 'GET', 'HEAD':
        data = request(method, '/closable')
        if not closed_after(server, lambda data=data: fetch(server, data)):
            return f'it is not called after the reply to {method} (PEP 3333, Specification Details)'


def latin_header(server):
    reply = get(server, '/latin-header')
    if reply.values('X-Latin') != [LATIN]:
        sent = [value.encode('latin-1') for value in reply.values('X-Latin')]
        return (f'{sent or reply} instead of {LATIN.encode("latin-1")}: each character is a byte, so encode '
                'the head as latin-1 (PEP 3333, Unicode Issues)')


def answers(path, due, section):
    """What complains if the answer to a GET is not that one; due is its status or its body."""
    def complains(server):
        reply = get(server, path)
        if due not in (reply.status, reply.body):
            return f'{reply} instead of {due!r} (PEP 3333, {section})'
    return complains


RULES = [  # what each is called, what complains, a path that shows it, and what is seen then
    ('streaming', streaming, 'wait', 'with 0 bytes received',
     'You see curl time out with 0 bytes received: you wait for the next piece before you send the first.'),
    ('Date', one_true_date, '', 'Date: .* 2015 ',
     'You see no Date, more than one, or one that is not the current time, in GMT.'),
    ('Date and Server of the application', own_headers, 'own-headers', r'(?m)^Date:(?s:.*)^Date:',
     'You see two lines with Date or Server: the application has sent one, and you have added another.'),
    ('close()', close, 'closable', r'GET /closable(?!(?s:.*)was called)',
     'You see no "close() was called" of your server: call close() of what the application returns, if any.'),
    ('a header that is not ASCII', latin_header, 'latin-header', '',
     'You see other characters than café: each character of a header is a byte. Encode them as latin-1.'),
    ('exc_info before the headers', answers('/change-before', 500, 'The start_response() Callable'),
     'change-before', r'\AHTTP/1.1 200',
     'You see another status than 500: it was changed before anything was sent, and you send the first one.'),
    ('exc_info after the headers', answers('/change-after', b'sent, raised again', 'Error Handling'),
     'change-after', r'(?m)^sent, (?!raised again)',
     'You see no "raised again": start_response() has to raise exc_info when the headers have been sent.'),
    ('write()', answers('/write', b'written, returned', 'The write() Callable'),
     'write', "TypeError: 'NoneType' object is not callable",
     'You see no "written, returned": start_response() has to return a write() that sends bytes.'),
]
RESPONSE_RULES = {name: complains for name, complains, *_ in RULES}


def experiment(server, step):
    return go_through(server, step, RESPONSE_RULES, f'it keeps {len(RULES)} rules of PEP 3333')


HINTS = """
        You see the first rule that you break, and where it is written. To see it by hand:
        {see}
        Fix that and save, and you see the next one.

        When the application calls start_response, the headers may still change. Send them with the first
        bytes of the body, and each piece as soon as it comes. Add no header that the application has sent.

        Return a method write(data) from start_response(). It sends the head once (headers_sent), then the
        data. finish_response() calls it for each piece, and result.close() in a finally. With exc_info, raise
        it if headers_sent. For Date: email.utils.formatdate(usegmt=True)."""
CASES = {name: Case('breaks rules of PEP 3333', f'curl -isSN -m 1 localhost:8888/{path}', *told, HINTS)
         for name, _, path, *told in RULES}
BUG = about(
    globals(), apps=PROBES, when_ended=its_own_end,
    witness='streaming: a piece of the body is not sent until the next one is ready',
    predict='An application yields a piece of a body, and waits before the next. When is the first one sent?',
    why='the server cannot know how long the application takes for the next piece. So it sends what it has.')
