"""A reply as curl and browsers read it, which take heads that h11 refuses."""
import re
from functools import cached_property

from laboratory.instruments.client import OPEN, Reading

HEAD_END = re.compile(rb'(\r?\n\r?\n)')
NUMBER = re.compile('[+]?[0-9]+')


class Read:
    """A Reply, and what they take it for.

    lines, blank, rest    those of its head without their ends, the bytes of the blank line, what follows
    lengths, options      what it says behind Content-Length, and behind Connection
    """

    def __init__(self, reply):
        self.reply = reply
        head, self.blank, self.rest, *_ = [*HEAD_END.split(reply.data, 1), b'', b'']
        self.lines = [line.removesuffix(b'\r') for line in head.split(b'\n')]
        self.lengths, self.options = self.said(b'content-length'), ', '.join(self.said(b'connection')).lower()
        self.is_chunked = 'chunked' in ''.join(self.said(b'transfer-encoding')).lower()

    def said(self, name):
        """The values of all headers of that name."""
        header = re.compile(rb'(?i)%b *: *(.*?) *' % name)
        return [found[1].decode('latin-1') for found in map(header.fullmatch, self.lines) if found]

    @cached_property
    def taken(self):
        """The Reply for which they take it, if its status line and its length are right."""
        head = b'HTTP/1.1 %b OK\r\n' % self.lines[0].split()[1][:3]
        if self.is_chunked:
            head += b'Transfer-Encoding: chunked\r\n'
        elif self.lengths:
            head += b'Content-Length: %d\r\n' % int(NUMBER.match(self.lengths[0])[0])
        reading = Reading()
        reading.take(head + b'\r\n' + self.rest)
        if self.reply.end != OPEN:
            reading.take(b'')
        return reading.reply(self.reply.end)

    @property
    def has_end(self):
        return self.reply.end != OPEN or self.taken.complete

    @property
    def is_kept(self):
        """Whether another request may be sent on its connection."""
        is_usual = self.reply.data[5:8] == b'1.1' and 'close' not in self.options
        return self.reply.end == OPEN and (is_usual or 'keep-alive' in self.options)
