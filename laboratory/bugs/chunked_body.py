"""reads a chunked body"""
from laboratory.instruments.client import fetch, request
from laboratory.instruments.experiment import Case, about
from laboratory.instruments.wsgi import CHUNKED, PROBES, as_typed, go_through

TO_BODY = request('POST', '/body', CHUNKED)
BODIES = {  # what is sent, with a pause at each ~, and what the application gets of it
    'two chunks': (b'5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n', b'hello world'),
    'chunks that come in pieces': (b'5~\r~\nhel~lo\r\n0\r\n~\r\n', b'hello'),
    'an extension and a trailer': (b'5;a=b;c="d"\r\nhello\r\n0\r\nX-Trailer: x\r\n\r\n', b'hello'),
    'a size in capitals': (b'000A\r\n0123456789\r\n0\r\n\r\n', b'0123456789'),
}


def gets_body(sent, due):
    """For go_through(): whether the application gets that body."""
    def complains(server):
        reply = fetch(server, *(TO_BODY + sent).split(b'~'))
        if (reply.status, reply.body) != (200, due):
            return f'{reply} instead of {due!r}'
    return complains


def experiment(server, step):
    requests = {case: gets_body(*body) for case, body in BODIES.items()}
    return go_through(server, step, requests, f'{len(BODIES)} bodies arrive whole')


CASES = {case: Case(
    'does not read a chunked body',
    as_typed(TO_BODY + sent).replace('~', "'; sleep .2; printf '"), 'HTTP/1.1 501',
    f'You see something other than {due.decode()}, or nothing: read the chunks, and pass on their bytes.', """
    Send a body in chunks:
    {see}
    The application sends back what it has got. Where in your code does this answer come from?

    A chunked body has no length of its own. Each piece comes after a line with its size, in hexadecimal,
    and is followed by a line end. A size of 0 is the end, but header lines may follow, up to a blank line.

    In take_body(), where the 501 is: take_line(), then int(size, 16) of what is before a ";", then
    take(buffer, size + 2), the piece and its line end. At 0, take_fields(). Put the pieces together, and
    their length into headers['content-length']. RFC 9112, section 7.1.""")
    for case, (sent, due) in BODIES.items()}
BUG = about(
    globals(), apps=PROBES,
    witness="two chunks: 501 instead of b'hello world'",
    predict='A client sends a body in chunks, without a Content-Length. What does the application get?',
    why='each chunk comes with its size, and one of size 0 is the last. So the end is known when it comes.')
