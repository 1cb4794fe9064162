"""What clients and servers have said, as a replay shows it: cut, and the same in each run."""
import re
from ast import literal_eval

from common.stages import ROOT

SHOWN = 200  # bytes of what a client sends and gets
NUMBERS = re.compile(  # of processes, and ports, as they are printed
    r'((?:\b(?:p?pid|child|parent|process|worker|from|port)\b|\b\d+(?:\.\d+){3}\b|localhost)[^\d\n]{0,4})'
    r'(\d+)\b(?!\.\d)',
    re.IGNORECASE)
DATE = re.compile(r'\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT')
ONE_DATE = 'Thu, 01 Jan 2026 00:00:00 GMT'


def same(text, numbers):
    """A text with the pids and ports of {number: number to show}, without its date and path."""
    text = DATE.sub(ONE_DATE, text.replace(f'{ROOT}/', ''))
    return NUMBERS.sub(lambda found: found[1] + numbers.get(found[2], found[2]), text)


def printed(data, size):
    """Bytes as text of ASCII; what is left out is told."""
    text = DATE.sub(ONE_DATE, repr(data)[2:-1].replace("\\'", "'"))
    return text + f'… ({size} bytes)' * (size > len(data))


class Client:
    """One of the clients: its connection, what it has sent and got, and its state in words."""

    def __init__(self, number, connection):
        self.name, self.connection, self.state = f'client {number}', connection, 'is connected'
        self.texts, self.sizes = {'sent': b'', 'got': b''}, {'sent': 0, 'got': 0}

    def add(self, what, size, data):
        self.sizes[what] += size
        self.texts[what] = (self.texts[what] + literal_eval(data or "b''"))[:SHOWN]

    def shown(self):
        return {what: printed(text, self.sizes[what]) for what, text in self.texts.items()} | {
            'state': self.state}
