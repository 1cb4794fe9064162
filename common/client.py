"""A load client: many processes, each with many connections, held open until Ctrl-C.

    make client MAX_CLIENTS=128 MAX_CONNS=8 HOLD=5 HOST=127.0.0.1 PORT=8888
    python3 common/client.py --max-clients 128 --max-conns 8 --hold 5 --host 127.0.0.1 --port 8888

With HOLD it ends after that many seconds instead. It prints how many connections were made,
answered and refused. The exit status is 1 if not all of them were answered.
Article: https://ruslanspivak.com/lsbaws-part3/
"""
import argparse
import json
import os
import re
import signal
import socket
import sys
import time
from collections import Counter

MOST = 10_000  # connections in all
TIMEOUT = 10  # seconds, for connecting and again for the answers
REQUEST = b'GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n'


def open_connections(address, max_conns):
    """Open the connections, send a request on each and wait for the answers.

    Returns the open sockets and a Counter of 'connected', 'answered' and 'refused'; a reason for
    a refusal, in the kernel's words, is counted under its own name.
    """
    socks, outcome = [], Counter()
    for _ in range(max_conns):
        try:
            sock = socket.create_connection(address, TIMEOUT)
            sock.sendall(REQUEST)
            socks.append(sock)
            outcome['connected'] += 1
        except (OSError, UnicodeError) as error:  # the latter for a HOST that no host can have
            outcome.update(['refused', getattr(error, 'strerror', None) or str(error)])
    deadline = time.monotonic() + TIMEOUT
    for sock in socks:
        sock.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            outcome['answered'] += bool(sock.recv(1024))
        except OSError:
            pass
    return socks, outcome


def be_client(args, report, hold):
    """The life of one client process: connect, report the outcome, wait until hold is closed."""
    try:
        socks, outcome = open_connections((args.host, args.port), args.max_conns)
        os.write(report, json.dumps(outcome).encode() + b'\n')
        os.close(report)
        os.read(hold, 1)
    finally:
        os._exit(0)


def run_clients(args):
    """Fork the clients, print what became of them, hold; return whether all were answered."""
    report_read, report_write = os.pipe()
    hold_read, hold_write = os.pipe()
    pids, outcome = [], Counter()
    ctrl_c = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the clients, which inherit it
    try:
        for _ in range(args.max_clients):
            pid = os.fork()
            if pid == 0:
                os.close(report_read)
                os.close(hold_write)
                be_client(args, report_write, hold_read)
            pids.append(pid)
        signal.signal(signal.SIGINT, ctrl_c)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a closed pipe ends it, and with it its clients
        os.close(report_write)
        with open(report_read) as reports:
            for line in reports:
                outcome.update(json.loads(line))
        print(summary(args, outcome), flush=True)
        if outcome['connected']:
            hold_connections(args.hold)
    except KeyboardInterrupt:
        pass
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
    return outcome['answered'] == args.max_clients * args.max_conns


def summary(args, outcome):
    reasons = sorted(outcome.keys() - {'connected', 'answered', 'refused'})
    return (f'{counted(args.max_clients, "client")} with {counted(args.max_conns, "connection")} each: '
            f'{outcome["connected"]} connected, {outcome["answered"]} answered, '
            f'{outcome["refused"]} refused' + (f' ({", ".join(reasons)})' if reasons else ''))


def counted(number, what):
    return f'{number} {what}' if number == 1 else f'{number} {what}s'


def hold_connections(seconds):
    if seconds is None:
        print('Holding the connections until Ctrl-C ...', flush=True)
        signal.pause()
    else:
        time.sleep(seconds)


def between(low, high):
    """What argparse calls a type: whole numbers from low to high."""
    def number(text):
        if not re.fullmatch('[0-9]{1,5}', text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f'{text!r} is not a number from {low} to {high}')
        return int(text)
    return number


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.error = lambda problem: parser.exit(2, f'client: {problem}\n')  # in one line
    parser.add_argument('--host', default=os.environ.get('HOST') or '127.0.0.1')
    parser.add_argument('--port', type=between(1, 65535), default=os.environ.get('PORT') or '8888')
    parser.add_argument('--max-clients', type=between(1, MOST), default=1, help='client processes')
    parser.add_argument('--max-conns', type=between(1, MOST), default=1,
                        help='connections of each client')
    parser.add_argument('--hold', type=between(0, 3600), metavar='SECONDS',
                        help='end after that time instead of at Ctrl-C')
    args = parser.parse_args()
    if args.max_clients * args.max_conns > MOST:
        parser.error(f'more than {MOST} connections in all')
    return args


if __name__ == '__main__':
    if not hasattr(os, 'fork'):
        sys.exit('The clients are forked, which Windows cannot do: use WSL')
    sys.exit(0 if run_clients(parse_args()) else 1)
