"""One TCP connection as the kernel keeps it: two ends, what lies unread at each, and how it ends.

Source: RFC 9293, section 3.3.2 (states), and tcp(7). The two ends are on one machine, so what one sends is at
the other at once, and states that last until the other end has answered (SYN_SENT, FIN_WAIT1, LAST_ACK) are
left out.
"""
AFTER_FIN = {  # (the end that sends FIN, the other end): both afterwards
    ('ESTABLISHED', 'ESTABLISHED'): ('FIN_WAIT2', 'CLOSE_WAIT'),
    ('CLOSE_WAIT', 'FIN_WAIT2'): ('CLOSED', 'TIME_WAIT'),
}
GONE = 'CLOSED', 'TIME_WAIT', 'reset'  # a state in which an end sends and receives no more


class Connection:
    """states and unread are those of both ends, 'server' and 'client'."""

    def __init__(self, number, port):
        self.number, self.port = number, port  # that of the client
        self.states = dict.fromkeys(['server', 'client'], 'ESTABLISHED')
        self.unread = dict.fromkeys(['server', 'client'], 0)
        self.early = 0  # bytes that a send() has sent which waits for room for the rest
        self.closed = set()  # the ends that no process has any more
        self.in_backlog = True

    def send(self, end, size):
        """One end sends so many bytes; return whether the answer is RST, as the other end is closed."""
        other = opposite(end)
        if self.states[other] in GONE:
            return False
        if other in self.closed:
            self.reset(other)
            return True
        self.unread[other] += size
        return False

    def receive(self, end, size):
        self.unread[end] -= size

    def finish(self, end):
        """One end sends FIN, by shutdown() or close(); return whether it does: only once."""
        other = opposite(end)
        after = AFTER_FIN.get((self.states[end], self.states[other]))
        if after:
            self.states[end], self.states[other] = after
        return bool(after)

    def close(self, end, linger=True):
        """The last descriptor of one end is closed; return what that sends: 'FIN', 'RST' or ''."""
        self.closed.add(end)
        is_open = self.states[end] not in GONE
        if is_open and (self.unread[end] or not linger):
            self.reset(end)
            return 'RST'
        return 'FIN' if is_open and self.finish(end) else ''

    def reset(self, end):
        """One end sends RST."""
        other = opposite(end)
        if self.states[other] not in GONE:
            self.states[other] = 'CLOSED' if other in self.closed else 'reset'
        self.states[end], self.unread[end] = 'CLOSED', 0


def opposite(end):
    return 'client' if end == 'server' else 'server'
