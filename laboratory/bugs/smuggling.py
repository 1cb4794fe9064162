"""answers no smuggled request"""
from laboratory.instruments.client import asking, fetch
from laboratory.instruments.experiment import Case, about
from laboratory.instruments.wsgi import CHUNKED, LENGTH, PROBES, as_typed, go_through, noted

SMUGGLED = b'GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n'
NO_CHUNK = b'0\r\n\r\n' + SMUGGLED
NO_CHUNK_LENGTH = f'{LENGTH}{len(NO_CHUNK)}'


def to_body(*headers, body=NO_CHUNK):
    return asking('POST', '/body', *headers) + body


REQUESTS = {  # each can be read in two ways, and one of them finds a second request in it
    'a chunked body with a Content-Length': to_body(NO_CHUNK_LENGTH, CHUNKED),
    'chunked twice': to_body(NO_CHUNK_LENGTH, CHUNKED, CHUNKED),
    'chunked and identity': to_body('Transfer-Encoding: chunked, identity'),
    'xchunked': to_body('Transfer-Encoding: xchunked'),
    'chunked after a vertical tab': to_body('Transfer-Encoding: \x0bchunked'),
    'a space before the colon': to_body(NO_CHUNK_LENGTH, 'Transfer-Encoding : chunked'),
    'two Content-Lengths': to_body(f'{LENGTH}0', f'{LENGTH}{len(SMUGGLED)}', body=SMUGGLED),
    'a Content-Length with a sign': to_body(f'{LENGTH}+0', body=SMUGGLED),
    'a Content-Length that is a list': to_body(f'{LENGTH}0, {len(SMUGGLED)}', body=SMUGGLED),
    'a folded Content-Length': to_body('Content-Length:', f' {len(SMUGGLED)}', body=SMUGGLED),
    'a chunk size with 0x': to_body(CHUNKED, body=b'0x' + NO_CHUNK),
    'a chunk size with a sign': to_body(CHUNKED, body=b'+' + NO_CHUNK),
    'a chunk size that ends with LF': to_body(CHUNKED, body=b'0\n\r\n' + SMUGGLED),
    'an extension that ends with LF': to_body(CHUNKED, body=b'2;\nxx\r\n' + NO_CHUNK),
    'a chunk that is longer than its size': to_body(CHUNKED, body=b'1\r\nxxx' + NO_CHUNK),
    'a chunk that ends with LF': to_body(CHUNKED, body=b'1\r\nx\n' + NO_CHUNK),
    'chunks in HTTP/1.0': to_body('Connection: keep-alive', CHUNKED).replace(b'HTTP/1.1', b'HTTP/1.0', 1),
}


def smuggles(data):
    """For go_through(): whether the application is called for what is no request."""
    def complains(server):
        before = noted(server, 'smuggled')
        fetch(server, data)
        if noted(server, 'smuggled') != before:
            return 'the application gets what is smuggled in it'
    return complains


def experiment(server, step):
    requests = {case: smuggles(data) for case, data in REQUESTS.items()}
    return go_through(
        server, step, requests, f'{len(requests)} requests that can be read in two ways smuggle nothing')


CASES = {case: Case(
    'answers a smuggled request', as_typed(data), 'was called with /smuggled',
    'You see two replies to one request, or your server prints that the application was called with '
    '/smuggled: refuse what can be read in two ways with 400, and close the connection.', """
    This request can be read in two ways, and your server sees a second request in it:
    {see}
    Only a 400 is right. Which bytes of it does your server take for the end of the first request?

    If a proxy reads it in one way and your server in another, one of them sees a second request in it. So
    refuse it, and close the connection: nobody knows where the next one begins. A size has only digits,
    hexadecimal ones in a chunk, and each line ends as the RFC says.

    In take_body(): a 400 if Transfer-Encoding comes with Content-Length or in HTTP/1.0, or is not just
    "chunked". For a size, re.fullmatch() [0-9A-Fa-f]+ up to ";" or CRLF, because int() also takes +0,
    0x0 and 1_0. A chunk has to end with b'\\r\\n'.""") for case, data in REQUESTS.items()}
BUG = about(
    globals(), apps=PROBES,
    predict='A request has a Content-Length, and is chunked as well. Which of the two ends its body?',
    why='a proxy may choose the other one, and then sees one request where you see two. So refuse it.')
