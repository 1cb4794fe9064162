"""sends a reply that is HTTP"""
import re

from laboratory.instruments.client import OPEN, REQUEST, Reading, connected, read_on, send
from laboratory.instruments.curl import HEAD_END, NUMBER, Read
from laboratory.instruments.experiment import Case, NoAnswer, about, bug, passed
from laboratory.instruments.views import exchange
from laboratory.instruments.wsgi import as_typed

AS_CURL = b'GET %b HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n'
STATUS = re.compile(rb'(?i:HTTP)/(1\.[01]|2(\.0)?) +[1-9]\d\d(?!\d).*')  # what curl takes for a status line
WHAT_CAME = 'A client has asked for a page, and this is the reply'


def wrong_head(read):
    """(case, what is wrong) of a head that curl does not take, or a browser; None for none."""
    data, (status, *headers) = read.reply.data, read.lines
    text = data.lstrip()
    if text[:5].upper() != b'HTTP/':
        return 'no_status_line', f'it begins with {data[:40]!r}, which is no status line'
    if len(text) < len(data):
        return 'indented', f'it begins with {data[:40]!r}: nothing may stand before the status line'
    if not STATUS.fullmatch(status):
        return 'status_line', f'its status line is {status[:40]!r}'
    if any(b'\0' in line for line in headers) and HEAD_END.search(data.replace(b'\0', b'')):
        return 'nul', f'there is a NUL byte in its head: {data[:60]!r}'
    for number, line in enumerate(headers):
        is_indented = line[:1] in (b' ', b'\t')
        if is_indented and (number == 0 or not line.strip()):
            return 'indented', f'a line of its head begins with a space: {line[:40]!r}'
        if b':' not in line and not is_indented:
            if read.blank:
                return 'header_line', f'its header {line[:40]!r} has no colon'
            break
    return None if read.blank else ('no_blank_line', f'no blank line ends its headers: {data[:60]!r}')


def wrong(read, is_last):
    """(case, what is wrong) of a reply that curl does not take, or a browser; None for none.

    is_last    whether the client has asked for the end of the connection
    """
    if found := wrong_head(read):
        return found
    lengths = read.lengths
    if len(set(lengths)) > 1:
        return 'wrong_length', f'it has two Content-Lengths, {" and ".join(lengths)}'
    if lengths and not NUMBER.match(lengths[0]):
        return 'wrong_length', f'its Content-Length is {lengths[0]!r}, which is no number'
    reply, taken = read.reply, read.taken
    if read.is_chunked and not taken.complete:
        return 'chunked', f'its body is not made of chunks up to one of size 0: {reply.data[-40:]!r}'
    if lengths and not taken.complete:
        end = 'nothing more' if reply.end == OPEN else 'the end'
        return 'too_long', f'its Content-Length is {lengths[0]}; {len(taken.body)} bytes come, and then {end}'
    if lengths and taken.extra.strip():
        sent = len(taken.body) + len(taken.extra)
        return 'too_short', f'its Content-Length is {lengths[0]}, but {sent} bytes come'
    if not read.has_end and (not is_last or 'keep-alive' in read.options):
        return 'endless', 'it has no Content-Length, and the connection stays open'
    return None


def remarks(read):
    """What curl and browsers take of a reply although it is not as it should be."""
    reply = read.reply
    if re.search(rb'(?<!\r)\n', reply.data.removesuffix(read.rest)):
        yield 'its lines end with LF, not CR LF: curl and browsers take that, Node.js does not'
    elif not reply.status:
        problem = re.sub(r'bytearray\((.*)\)', r'\1', reply.problem)
        yield f'curl takes it, strict clients do not: {problem}'
    if read.taken.extra:
        yield 'there are more bytes behind its end'
    if read.rest.endswith(b'\0'):
        yield 'its body ends with NUL, as it does where sizeof counts the end of a string in C'


def asked(server, client, data):
    """What comes of a request: to its end where the client has asked for one, else until it is complete."""
    reading = Reading()
    send(client, server, data)
    reply = read_on(client, server, reading, lambda: data != REQUEST and reading.complete)
    server.last_exchange = data, reply
    return Read(reply)


def experiment(server, step):
    """Ask with Connection: close, and then as curl does for two pages, on one connection if it is kept."""
    client, notes = None, []
    for data in REQUEST, AS_CURL % b'/hello', AS_CURL % b'/':
        is_second, client = bool(client), client or connected(server)
        read = asked(server, client, data)
        if is_second and not read.reply.data and read.reply.end != OPEN:  # it may close it: clients try again
            is_second, client = False, connected(server)
            read = asked(server, client, data)
        if read.reply.data:
            found = wrong(read, data == REQUEST)
        elif is_second:
            found = 'unanswered', 'it keeps the connection open, and does not answer the next request there'
        else:
            raise NoAnswer('a GET is not answered')
        if found:
            step(WHAT_CAME, exchange)
            return bug(*found)
        notes += remarks(read)
        if not read.has_end:  # another bug's matter, and others would wait for it in vain
            return passed('; '.join(['what comes of its reply is HTTP', *notes]))
        if data == REQUEST or not read.is_kept:
            client.close()
            client = None
    return passed('; '.join(['curl and browsers take its replies', *dict.fromkeys(notes)]))


CURL = 'curl -sS -i -m 2 localhost:8888/hello'
BYTES = as_typed(REQUEST) + ' | cat -vet | head'
OF_LENGTH = """
    Ask for the page, and count the bytes of its body:
    {see}
    Content-Length is a promise. What does your server count, and what does it send?

    The client reads so many bytes after the blank line, and no more. If fewer come, it waits for the others
    until the connection ends. A character may be several bytes, and the last line end counts, too.

    Make bytes of the body first, and take the length of these: len() of bytes in Python, strlen() in C, not
    sizeof, and Buffer.byteLength() in Node. Write the header after that, with the number."""
CASES = {
    'indented': Case(
        'sends a reply that is indented', BYTES, r'(?m)^ +HTTP/|^\$$',
        'You see a line of the head that begins with a space, or an empty line before HTTP/1.1: curl refuses '
        'that. Begin each line at the left edge.', """
        See each byte that your server sends; $ is the end of a line, ^M$ one with CR LF:
        {see}
        Which line begins with a space? Is the first one empty? Where is the blank line, and is it empty?

        "HTTP/1.1" must be the first bytes of a reply. Where the code of a text over several lines is
        indented, or begins on the next line, spaces and line ends become part of the text.

        Begin the text right behind the quotes, and its other lines at the left edge of the file. Or write
        one string for each line, with \\r\\n at its end, and join them."""),
    'no_status_line': Case(
        'sends no status line', CURL, r'curl: \(1\)',
        'You see curl: (1) Received HTTP/0.9: the first line of a reply is HTTP/1.1 200 OK.', """
        Ask for the page:
        {see}
        curl takes a reply without a status line for HTTP/0.9. What are the first bytes that you send?

        A reply is a status line, headers, a blank line, the body, in that order. A client looks at the first
        bytes to see whether it speaks with a web server at all.

        Send HTTP/1.1 200 OK and \\r\\n before all else. Send nothing when a client connects: it speaks
        first. Is something sent twice, or the text of a whole object instead of its bytes?"""),
    'status_line': Case(
        'sends a wrong status line', CURL, r'curl: \(1\)',
        'You see curl: (1) Unsupported: the line is HTTP/1.1, a space, three digits, a space, a word.', """
        Ask for the page:
        {see}
        Compare the first line of your reply with HTTP/1.1 200 OK, byte by byte.

        A client reads two things there: the version, which is 1.0 or 1.1, and a number of three digits.

        Write HTTP/1.1 200 OK, with one space each. The words at the end are for people, who may like
        others."""),
    'no_blank_line': Case(
        'sends no blank line before the body', CURL, r'curl: \(8\)',
        'You see curl: (8) Header without colon, or an empty page: a blank line must follow the headers.', """
        Ask for the page:
        {see}
        A browser shows an empty page. Where could a client see that the headers are over?

        The headers end at a blank line, and it is there without headers, too. Otherwise your page is taken
        for more of them.

        Each line ends with \\r\\n, and after the last header comes one more: \\r\\n\\r\\n. Are these the
        bytes 13 and 10? In the single quotes of Perl, PHP and a shell, \\r\\n is four characters."""),
    'header_line': Case(
        'sends a header without a colon', CURL, r'curl: \(8\)',
        'You see curl: (8) Header without colon: each line up to the blank one is Name: value.', """
        Ask for the page:
        {see}
        curl gives up at one line. Is it a header, or does your page begin too early?

        All lines from the status line to the first blank line are headers, and each has a name, a colon and
        a value.

        Write it as Name: value. If it is part of your page, send the blank line, \\r\\n, before it."""),
    'nul': Case(
        'sends a NUL byte in its headers', BYTES, r'\^@',
        'You see ^@, the NUL that ends a string in C: sizeof counts it, strlen() does not.', """
        See each byte that your server sends; ^@ is NUL, the byte 0:
        {see}
        Which string ends there? How do you tell write() how long it is?

        In C, a byte 0 ends a string in memory. It is no part of the text, and curl takes no header with it.

        Give write() the strlen() of the string, or what snprintf() has returned. sizeof is one
        more, and for a buffer it is the size of the whole buffer."""),
    'too_long': Case(
        'announces more than it sends', CURL, r'curl: \((18|28)\)',
        'You see curl: (18) or (28): it waits for more. Count the bytes of the body, and no others.',
        OF_LENGTH),
    'too_short': Case(
        'announces less than it sends', CURL + ' | tail -3', '',
        'You see that the end of your page is missing: clients read as much as Content-Length says.',
        OF_LENGTH),
    'wrong_length': Case(
        'sends no usable Content-Length', CURL, r'curl: \(8\)|Content-Length: \d+\s+Content-Length',
        'You see two Content-Lengths, or curl: (8) Invalid: send one, a number of bytes.', OF_LENGTH),
    'chunked': Case(
        'sends wrong chunks', CURL, r'curl: \((18|28|43|56)\)',
        'You see an error of curl: a chunk is its size in hexadecimal, CR LF, so many bytes, CR LF.', """
        Ask for the page:
        {see}
        Your reply says Transfer-Encoding: chunked. Is what follows the blank line made of chunks?

        Each chunk says how long it is, as a hexadecimal number on a line of its own. CR LF follows its
        bytes. One of size 0 ends the body, and a blank line ends that.

        A body of 14 bytes is e\\r\\n, the bytes, \\r\\n, and then 0\\r\\n\\r\\n. If you know the length
        before, leave out Transfer-Encoding and send Content-Length: 14 instead."""),
    'endless': Case(
        'does not say where its reply ends', CURL, r'curl: \(28\)',
        'You see the page, and curl waits for more: send Content-Length, or close the connection.', """
        Ask for the page:
        {see}
        All of it is there, and a browser would show that it still loads. How should it know that this is all?

        A body ends where Content-Length says, or with the last chunk, or else where the connection ends. A
        reply with none of these never ends.

        Close the connection after the reply, and all copies of its socket. To keep it open for the next
        request, send Content-Length with the number of bytes of the body."""),
    'unanswered': Case(
        'keeps a connection on which it does not answer',
        'curl -sS -i -m 2 localhost:8888/hello localhost:8888/', r'curl: \(28\)',
        'You see one page, and curl waits for the other: close the connection, or read the next request.', """
        Ask for two pages, for which curl uses one connection if it can:
        {see}
        The second request is never answered. Who should read it?

        Since HTTP/1.1, a connection stays open after a reply with a length, unless one side says that it
        ends. A client may send its next request on it at once.

        Either send Connection: close, and close the connection after the reply, in each process that has its
        socket. Or read requests from it in a loop, until recv() returns no bytes."""),
}
BUG = about(
    globals(),
    predict='curl asks for two pages. Does it take both replies?',
    why='a client reads a reply byte by byte, and goes by what the headers say, not by what you meant.')
