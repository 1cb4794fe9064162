"""The variables that make hands to a command (PORT=9000, PEP475=off); what is wrong is told in one line."""
import errno
import os
import re
import socket
import sys

from common import pid


def choice(name, *values):
    """The value of a variable, one of those named; the first of them where it is not set."""
    value = os.environ.get(name) or values[0]
    if value not in values:
        sys.exit(f'{name}={value} is not valid: use {", ".join(values[:-1])} or {values[-1]}')
    return value


def positive(name, default=None, whole=False):
    """A variable as a number above 0; the default where it is not set."""
    value = os.environ.get(name)
    if not value:
        return default
    if not re.fullmatch('[0-9]{1,3}' if whole else r'[0-9]{1,6}(\.[0-9]{1,6})?', value) or not float(value):
        kind = 'a whole number from 1 to 999' if whole else 'a number of seconds, such as 10 or 0.5'
        sys.exit(f'{name}={value} is not valid: use {kind}')
    return float(value)


def check_part4():
    """Exit with one line where a variable of part 4's stages is not valid."""
    for number in 'WORKERS', 'THREADS':
        positive(number, whole=True)
    for limit in 'IDLE_TIMEOUT', 'REQUEST_TIMEOUT', 'SEND_TIMEOUT', 'APP_TIMEOUT', 'STOP_TIMEOUT':
        positive(limit)


def port(lowest=0):
    """PORT as a number; 8888 where it is not set, as in the articles."""
    value = os.environ.get('PORT') or '8888'
    if not re.fullmatch('[0-9]{1,5}', value) or not lowest <= int(value) <= 65535:
        sys.exit(f'PORT={value} is not a valid port: a port is a number from {lowest} to 65535, '
                 'such as PORT=8888')
    return int(value)


def free_address():
    """HOST and PORT, once a server can listen there; exits with one line where it cannot."""
    host, number = os.environ.get('HOST') or '127.0.0.1', port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except (socket.gaierror, UnicodeError):
            sys.exit(f'HOST={host} is not an address: 127.0.0.1 is for this machine, 0.0.0.0 for the network')
        except OSError as error:
            reason = who_has(number) if error.errno == errno.EADDRINUSE else error.strerror
            sys.exit(f'cannot listen on HOST={host} PORT={number}: {reason}')
    return host, number


def who_has(number):
    """Which process has a port that is taken, and what helps."""
    found = pid.listeners(number)
    who = "another user's server listens there" if found else 'another program uses it'
    if found and found[0]:
        name = f' ({command})' if (command := pid.command(found[0])) else ''
        who = f'process {found[0]}{name} listens there, kill {found[0]} ends it'
    return f'{who}. Another port: PORT=9000'
