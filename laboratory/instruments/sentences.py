"""What is said of each step, by its keys; and the moments of a run that are worth a jump.

{Who} and {who} are who has done it. A list is shown as 'the server and child 1'; {holders:has} is its verb.
"""

SAID = {
    'line': '{Who} comes to line {number}.',
    'folded lines': '{Who} runs {count} lines that ask the kernel for nothing, up to line {number}.',
    'folded': 'The same {count} more times.',
    'goes on': 'The server does not come to rest. The replay ends here.',
    'the end': 'The run ends here. Zombies that are left: {zombies}. They stay until {who} calls wait(), '
               'or ends.',
    'socket': '{Who} asks the kernel for a socket, and gets descriptor {fd}.',
    'bind': 'The socket gets its address, port 8888.',
    'listen': 'From now on the kernel completes connections to port 8888 by itself. Up to {limit} of them '
              'wait in the backlog until accept() takes them.',
    'handler': 'From now on {signal} interrupts {who}, and its handler runs.',
    'SIG_IGN': 'From now on {who} ignores {signal}.',
    'prints': '{Who} prints: {text}',
    # clients
    'connects from': '{Who} connects. The kernel completes the connection and puts it into the backlog.',
    'sends': '{Who} sends {size} bytes. They lie in the buffer of connection {n} until recv() takes them.',
    'sends and is reset': '{Who} sends {size} bytes, but nobody has the other end any more: RST comes back.',
    'receives': '{Who} gets {size} bytes of reply.',
    'receives FIN': '{Who} gets FIN: the reply ends here.',
    'is reset': '{Who} gets an error: the connection was reset (RST).',
    'shuts down': '{Who} sends FIN: it will send no more, but still reads.',
    'closes': '{Who} closes its end of connection {n}.',
    'closes CLOSE_WAIT': '{Who} closes its end, which sends FIN. The other end is in CLOSE_WAIT until the '
                         'server closes it too.',
    'closes TIME_WAIT': '{Who} closes its end, too. The connection is over; the end that closed first stays '
                        'in TIME_WAIT for a minute.',
    'closes CLOSED': '{Who} closes its end, too. The connection is over.',
    'closes reset': '{Who} closes its end while bytes lie in it unread: the kernel sends RST.',
    'resets': '{Who} closes its end with RST instead of FIN.',
    'resets reset': '{Who} closes its end with RST instead of FIN.',
    'resets CLOSED': '{Who} closes its end with RST instead of FIN.',
    'in vain backlog': 'All rest, and {who} waits: its connection lies in the backlog, and nobody calls '
                       'accept(). {Places}.',
    'in vain reply': 'All rest, and {who} waits for its reply. {Places}.',
    'in vain end': 'All rest, and {who} hangs: it has all {size} bytes, but FIN has not come, as {holders} '
                   'still {holders:has} connection {n}.',
    # accept
    'accept waits': '{Who} waits in accept(): the backlog is empty.',
    'accept': 'accept() takes connection {n} out of the backlog: descriptor {fd} leads to it.',
    'nobody': 'accept() finds the backlog empty, and does not wait (EAGAIN).',
    'EINTR': '{name}() ends with the error EINTR: nothing is wrong, a signal has come.',
    # processes
    'fork': 'fork() makes {child}, a copy of {who}: both stand on this line, and both have {fds}.',
    'thread': '{Who} starts {child}. It shares all descriptors of its process: there are no copies.',
    'exec': '{Who} runs another program from here.',
    'exit': '{Who} ends.',
    'exit status': '{Who} ends with exit status {status}.',
    'thread ends': '{Who} ends. Its process goes on.',
    'killed': '{signal} kills {who}.',
    'exit FIN': 'The kernel closes what it had open, and FIN goes to {clients}.',
    'exit RST': 'The kernel closes what it had open, and RST goes to {clients}, as bytes lie unread.',
    'zombie': 'It stays in the table as a zombie until {parent} asks with wait() how it ended.',
    'merged': 'One SIGCHLD is pending for {parent} already, so this one adds nothing.',
    'wait waits': '{Who} waits in wait(): no child has ended. It does nothing else until one does.',
    'reaped': '{Who} learns how {child} ended, and the kernel takes the zombie out of its table.',
    'more zombies': 'Zombies that are left: {left}.',
    'none ended': 'waitpid() returns 0: there are children, but none has ended. It has not waited (WNOHANG).',
    'no child': 'No child is left to ask for (ECHILD).',
    'kill': '{Who} sends {signal} to {child}.',
    # signals
    'CLD_EXITED': 'SIGCHLD tells {who} that {child} has ended.',
    'CLD_KILLED': 'SIGCHLD tells {who} that {child} was killed.',
    'CLD_DUMPED': 'SIGCHLD tells {who} that {child} was killed.',
    'CLD_STOPPED': 'SIGCHLD tells {who} that {child} was stopped. It has not ended!',
    'CLD_CONTINUED': 'SIGCHLD tells {who} that {child} goes on.',
    'no handler': 'There is no handler, so nothing happens.',
    'interrupts': 'It interrupts {where}, for there is a handler.',
    'handler next': 'Its handler runs next.',
    'signal': '{signal} comes.',
    'stopped': '{signal} stops {who}. It does nothing until SIGCONT comes; other signals stay pending.',
    'continues': 'SIGCONT comes: {who} goes on.',
    # bytes
    'recv waits': '{Who} waits in recv() until the client on connection {n} sends something.',
    'recv': 'recv() takes {size} bytes out of the buffer of connection {n}.',
    'recv FIN': 'recv() returns no bytes: the client has sent FIN.',
    'recv reset': 'recv() fails: the client has reset the connection (RST).',
    'nothing': 'recv() finds nothing, and does not wait (EAGAIN).',
    'read waits': '{Who} waits in read(): nothing has been written into the pipe.',
    'read pipe': '{Who} reads {size} bytes from a pipe.',
    'send waits': '{Who} waits in send(): the buffer of connection {n} is full, as the client does not read.',
    'send': 'send() puts {size} bytes into the buffer of connection {n}. They go to the client at once.',
    'sent': 'send() returns: it has found room for all {size} bytes, as the client has read.',
    'send and is reset': 'send() takes {size} bytes, but the client has closed its end: RST comes back.',
    'send reset': 'send() fails: the client has gone.',
    'full': 'send() finds the buffer full, and does not wait (EAGAIN).',
    'shutdown': '{Who} sends FIN with shutdown(): the reply ends, and it can still read.',
    'shutdown late': '{Who} calls shutdown(), but FIN has gone out already.',
    # close
    'close kept': '{Who} closes its copy of connection {n}, descriptor {fd}. No FIN goes out: {holders} '
                  'still {holders:has} one.',
    'close FIN': '{Who} closes descriptor {fd}, the last one of connection {n}: the kernel sends FIN.',
    'close only': '{Who} closes descriptor {fd}, and with it connection {n}: the kernel sends FIN.',
    'close RST': '{Who} closes descriptor {fd}, the last one of connection {n}, while {unread} bytes lie '
                 'unread: the kernel sends RST instead of FIN.',
    'close gone': '{Who} closes descriptor {fd}, the last one of connection {n}. The client has gone before: '
                  'no process has an end of it any more.',
    'close late': '{Who} closes descriptor {fd}, the last one of connection {n}. FIN has gone out before.',
    'close': '{Who} closes descriptor {fd} ({what}).',
    'close listening': '{Who} closes its copy of the listening socket, descriptor {fd}: {holders} still '
                       '{holders:has} one.',
    'close listening last': '{Who} closes the listening socket: nobody can connect any more.',
    'dup': '{Who} makes a copy of descriptor {fd} ({what}): {copy}.',
    'pipe': '{Who} makes a pipe.',
    # other calls
    'again': '{Who} is back in {where}: Python has called it again after the signal (PEP 475).',
    'waits': '{Who} waits in {where}.',
    **dict.fromkeys(['poll waits', 'select waits', 'epoll_wait waits'],
                    '{Who} waits in {where} until a socket is ready, or its time is over.'),
    'ready': '{name}() returns: something is ready.',
    'times out': '{name}() returns 0: nothing is ready.',
    'fails': '{name}() fails with {error}.',
}
MOMENTS = {  # (how much worth a jump, what it is called)
    'accept': (3, 'accept() takes connection {n} out of the backlog'),
    'fork': (5, 'fork(): two processes stand on one line'),
    'thread': (5, 'A thread: no copies'),
    'handler': (3, '{Who} gets a handler for {signal}'),
    'close kept': (9, '{Who} closes its copy: no FIN, {holders} still {holders:has} one'),
    'close FIN': (8, '{Who} closes the last copy: FIN'),
    'close only': (8, '{Who} closes the connection: FIN'),
    'close RST': (9, '{Who} closes with bytes unread: RST'),
    'exit FIN': (7, '{Who} ends, and the kernel sends FIN for it'),
    'exit RST': (7, '{Who} ends, and the kernel sends RST for it'),
    'shutdown': (7, 'shutdown() sends FIN'),
    'in vain end': (9, '{Who} hangs: FIN has not come'),
    'in vain reply': (8, '{Who} waits for its reply'),
    'in vain backlog': (9, '{Who} waits in the backlog'),
    'closes CLOSE_WAIT': (8, '{Who} has gone: CLOSE_WAIT'),
    'zombie': (8, '{Who} is a zombie'),
    'merged': (9, 'A SIGCHLD that adds nothing: one is pending already'),
    'more zombies': (9, 'One wait() for several zombies, {left} are left'),
    'reaped': (6, '{Who} asks how {child} ended'),
    'no child': (7, 'No child is left to ask for'),
    'the end': (8, 'Zombies that are left: {zombies}'),
    'none ended': (6, 'WNOHANG: {who} does not wait'),
    'wait waits': (7, '{Who} waits in wait()'),
    'interrupts': (6, '{signal} interrupts {where}'),
    'EINTR': (7, '{name}() ends with EINTR'),
    'again': (6, 'Python calls {where} again'),
    'no handler': (5, 'A SIGCHLD, and no handler'),
    'stopped': (7, '{Who} is stopped'),
    'continues': (5, '{Who} goes on'),
    'exit status': (9, '{Who} ends with exit status {status}'),
    'killed': (9, '{signal} kills {who}'),
    'ready': (2, '{name}() says what is ready'),
}


def told(step):
    """The sentence of a step."""
    values = Names.of(step)
    keys = ['waits' if step.kind == 'waits' and key not in SAID else key for key in step.keys]
    return ' '.join(SAID[key].format_map(values) for key in keys)


class Names(list):
    """Names in a sentence: 'the server and child 1'; with 'has' as format the verb for them, has or have."""

    def __format__(self, verb):
        if verb:
            return 'has' if len(self) == 1 else 'have'
        return joined([called(name) for name in self])

    @classmethod
    def of(cls, step):
        """The values of a step as sentences have them."""
        values = {name: cls(value) if isinstance(value, list) else value
                  for name, value in step.values.items()}
        values |= {name: called(values[name]) for name in ('child', 'parent') if values.get(name)}
        fds, who = values.get('fds', []), called(step.who)
        places = [f'{called(name)} {"is stopped" if state == "stopped" else f"waits in {where}"}'
                  for name, state, where in values.get('places', [])]
        return values | {'who': who, 'Who': begun(who), 'Places': begun(joined(places)),
                         'fds': f'descriptor{"s" * (len(fds) > 1)} {joined(fds)}'}


def joined(words):
    return ' and '.join(filter(None, [', '.join(words[:-1]), *words[-1:]])) or 'nobody'


def called(name):
    return 'the server' if name == 'server' else name


def begun(text):
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]
