"""Putting load on a server, with ab and wrk, and what it costs the server.

Each of the two does what the other cannot. ab opens a connection for each request, and counts the time
until it is open; it speaks HTTP/1.0 alone. wrk keeps its connections open. But where FIN ends a reply,
wrk calls that an error, and connects twice before it sends the next request.
"""
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from typing import NamedTuple

from laboratory.instruments import cpu, kernel
from laboratory.instruments.client import closes, connect, read_next

CLIENTS = 16  # connections at a time
GRACE = 30  # seconds that a tool may take longer than it should
SILENT = 'answers no request'
WAITS = 'does not answer its clients, or does not end its replies'
PACKAGES = {'wrk': 'wrk', 'ab': 'apache2-utils'}  # of Debian and Ubuntu
BROWSER = {  # what Chromium sends for a page
    'User-Agent': 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) '
                  'Chrome/142.0.0.0 Safari/537.36',
    'Accept': 'text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,'
              '*/*;q=0.8,application/signed-exchange;v=b3;q=0.7',
    'Accept-Encoding': 'gzip, deflate, br, zstd', 'Accept-Language': 'en-GB,en;q=0.9',
    'Cookie': 'session=c2Vzc2lvbiBvZiBhIHJlYWRlcg; theme=dark',
    'Sec-Fetch-Dest': 'document', 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Site': 'none',
    'Sec-Fetch-User': '?1', 'Upgrade-Insecure-Requests': '1',
    'sec-ch-ua': '"Chromium";v="142", "Not_A Brand";v="99"', 'sec-ch-ua-mobile': '?0',
    'sec-ch-ua-platform': '"Linux"',
}
SLOW = 'slow'
LOADS = {'': ('/hello', {}), 'browser': ('/hello', BROWSER), SLOW: ('/slow', {})}  # paths and headers
MS = {'us': 0.001, 'ms': 1, 's': 1000, 'm': 60_000}  # wrk's units of time


class LoadFailed(Exception):
    """The tool could not measure the server; it says why."""


class Load(NamedTuple):
    """What a tool tells."""
    requests: int  # that were answered
    rate: float  # of them in a second
    p99: float  # milliseconds in which 99 of 100 were
    remark: str = ''  # what was wrong


class Figures(NamedTuple):
    """What is measured of a server."""
    rate: float  # requests in a second
    p99: float  # milliseconds
    cpu: float  # microseconds for a request, of all its processes
    memory: float  # bytes, while it has clients
    remark: str = ''


def need_tools():
    """Exit with one line where this machine cannot measure."""
    if not kernel.LINUX:
        sys.exit('make bench reads what Linux tells of processes in /proc: it runs on Linux alone')
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
    if missing:
        sys.exit(f'make bench puts load on the servers with wrk and ab: apt install {" ".join(missing)}')


def tool_words(kept, port, name, seconds):
    """The words of a tool: wrk for connections that are kept, ab for a new one for each request."""
    # -n, since -t alone ends after 50 000 requests; -r goes on after a reset; -e tells more than whole ms
    tool = (f'wrk -t1 -c{CLIENTS} -d{seconds}s --latency' if kept else
            f'ab -q -r -l -c{CLIENTS} -t{seconds} -n1000000 -s5 -e/dev/stdout')
    path, headers = LOADS[name]
    options = [word for name, value in headers.items() for word in ('-H', f'{name}: {value}')]
    return [*tool.split(), *options, f'http://127.0.0.1:{port}{path}']


def number(pattern, printed):
    """The number that the group of the pattern finds."""
    if found := re.search(pattern, printed, re.MULTILINE):
        return float(found[1])
    raise LoadFailed((printed.strip().splitlines() or ['nothing was printed'])[-1])


def failed(kinds, printed):
    """How many requests failed, in the kinds that the pattern names."""
    return sum(map(int, re.findall(rf'(?:{kinds}):? +(\d+)', printed, re.MULTILINE)))


def read_wrk(printed):
    """The Load in what wrk prints."""
    def milliseconds(name):
        value, unit = re.search(rf'^ +{name} +([\d.]+)(us|ms|s|m)\b', printed, re.MULTILINE).groups()
        return float(value) * MS[unit]

    requests, rate = number(r'(\d+) requests in', printed), number(r'^Requests/sec: +([\d.]+)', printed)
    if not requests:
        raise LoadFailed(SILENT)
    # Little's law: the requests that are under way are those that come in a second times the seconds of each
    answered = rate * milliseconds('Latency') / 1000
    starving = f'answers less than half of the {CLIENTS} clients, and lets the others wait'
    errors = failed(r'\bconnect|\bread|\bwrite|\btimeout|^ +Non-2xx or 3xx responses', printed)
    remark = starving if answered < CLIENTS / 2 else told(errors)
    return Load(int(requests), rate, milliseconds('99%'), remark)


def read_ab(printed):
    """The Load in what ab prints."""
    if 'timeout specified has expired' in printed:
        raise LoadFailed(WAITS)
    requests = number(r'^Complete requests: +(\d+)', printed)
    # not 'Failed requests', in which a reset is counted twice: as Receive and as one of the Exceptions
    errors = failed(r'\(Connect|Receive|^Write errors|^Non-2xx responses', printed)
    if requests <= errors:
        raise LoadFailed(SILENT)
    rate, p99 = number(r'^Requests per second: +([\d.]+)', printed), number(r'^99,([\d.]+)', printed)
    return Load(int(requests), rate, p99, told(errors))


def told(errors):
    return f'{errors} requests failed' if errors else ''


def keeps_connections(server):
    """Whether the server leaves a connection open for the next request."""
    with connect(server) as client:
        client.sendall(b'GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n')
        reply = read_next(client, server)
    return reply.complete and not closes(reply)


def put_load(server, kept, name, seconds):
    """Measure a ServerProcess for so many whole seconds; return its Figures. Raises LoadFailed.

    kept      whether each client keeps its connection; else it opens one for each request
    name      of LOADS
    """
    server.let_rest()
    before = cpu.cpu_time(server.family())
    words = tool_words(kept, server.port, name, seconds)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tool:
        with suppress(subprocess.TimeoutExpired):
            tool.communicate(timeout=seconds / 2)
        memory = kernel.memory(server.processes())
        try:
            printed, _ = tool.communicate(timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            tool.kill()
            raise LoadFailed(WAITS) from None
    server.let_rest()  # it may be at work on what the tool did not wait for
    load = (read_wrk if kept else read_ab)(printed)
    used = cpu.cpu_time(server.family()) - before
    return Figures(load.rate, load.p99, used / load.requests * 1e6, memory, load.remark)
