"""What is said of each step, by its keys; and the moments of a run that are worth a jump.

{Who} and {who} are who has done it. A list is shown as 'the server and child 1'; {holders:has} is its verb.
"""

SAID = {
    'line': '{Who} comes to line {number}.',
    'with ends': '{Who} comes back to line {number}, where the with block ends.',
    'catches': '{Who} comes to line {number}, which catches {caught}.',
    'line of the child': '{Who} comes to line {number}. Here fork() has returned 0.',
    'handler begins': '{handler} begins: {who} comes to line {number}.',
    'handler begins again': '{handler} begins once more, inside itself: its first call is not over. {Who} '
                            'comes to line {number}.',
    'handler over': '{handler} is over. {Who} goes back to what the signal has interrupted.',
    'raised': 'Line {number} raises {error}.',
    'raised by': '{name}() on line {number} raises {error}.',
    'uncaught': 'Nothing catches {error}: it ends {who}.',
    'first lines': '{Who} runs {count} lines (imports, definitions), up to line {number}.',
    'folded lines': '{Who} runs {count} lines that change nothing shown here, up to line {number}.',
    'folded prints': '{Who} prints {count} more lines; the last is: {text}',
    'folded': 'The same {count} more times.',
    'goes on': 'The server does not come to rest. The replay ends here.',
    'goes on lines': 'The replay ends here, after {count} lines.',
    'goes on seconds': 'The server has used more than {count} seconds of CPU and does not wait. '
                       'The replay ends here.',
    'the end': 'The run ends here.',
    'ends lost': '{ended} children have ended, but SIGCHLD has come only {times}: the others were lost.',
    'ends zombies': '{zombies:Begun} {zombies:zombie}. {zombies:stay} so until {zombies_of} calls wait(), or '
                    'ends.',
    'ends open': '{holder:Begun} still has descriptor {fd}, so connection {n} stays in CLOSE_WAIT.',
    'ends unclosed': '{unclosed:Begun} {unclosed:has} not closed {unclosed:end}.',
    **dict.fromkeys(['ends waiting', 'ends stuck'], '{Places}'),
    'socket': '{Who} asks the kernel for a socket, and gets descriptor {fd}.',
    'reuse': '{Who} sets SO_REUSEADDR: it may bind its port again while old connections are in TIME_WAIT.',
    'bind': 'The socket gets its address, port 8888.',
    'listen': 'From now on the kernel completes connections to port 8888 by itself. {limit} of them can '
              'wait in the backlog until accept() takes them.',
    'handler': 'From now on, when {signal} comes, its handler runs in {who}, whatever it is doing.',
    'SIG_IGN': 'From now on {who} ignores {signal}.',
    'prints': '{Who} prints: {text}',
    # clients
    'connects from': '{Who} connects. The kernel completes the connection and puts it into the backlog.',
    'sends': "{Who} sends {size} bytes. They lie in the server's receive buffer until recv() takes them.",
    'sends and is reset': '{Who} sends {size} bytes, but nobody has the other end any more: RST comes back.',
    'receives': '{Who} gets {size} bytes of reply.',
    'receives FIN': '{Who} gets FIN: the reply ends here.',
    'is reset': '{Who} gets an error: the connection was reset (RST).',
    'shuts down': '{Who} sends FIN: it will send no more, but still reads.',
    'closes': '{Who} closes its end of connection {n}.',
    'closes CLOSE_WAIT': '{Who} closes its end: FIN goes to the server, whose end is now in CLOSE_WAIT until '
                         'the server closes it, too.',
    'gives up': '{Who} gives up and closes its end: FIN goes to the server, whose end is now in CLOSE_WAIT '
                'until the server closes it, too.',
    'closes TIME_WAIT': '{Who} closes its end, too. The connection is over; the end that closed first stays '
                        'in TIME_WAIT for a minute.',
    'closes CLOSED': '{Who} closes its end, too. The connection is over.',
    'closes reset': '{Who} closes its end while bytes lie in it unread: the kernel sends RST.',
    'resets': '{Who} closes its end with RST instead of FIN.',
    'resets reset': '{Who} closes its end with RST instead of FIN.',
    'resets CLOSED': '{Who} closes its end with RST instead of FIN.',
    'in vain backlog': 'Nothing moves any more. {Who} waits: its connection lies in the backlog, and nobody '
                       'calls accept().{Places}',
    'in vain reply': 'Nothing moves any more. {Who} waits for its reply.{Places}',
    'in vain end': 'Nothing moves any more. {Who} hangs: it has all {size} bytes, but no FIN, because '
                   '{holders} still {holders:has} connection {n} open.',
    # accept
    'accept waits': '{Who} waits in accept(): the backlog is empty.',
    'accept': 'accept() takes connection {n} out of the backlog: descriptor {fd} leads to it.',
    'nobody': 'accept() finds the backlog empty, and does not wait (EAGAIN).',
    'EINTR': '{name}() ends with the error EINTR: a signal has interrupted it.',
    # processes
    **dict.fromkeys(['fork', 'fork without lines'],
                    'fork() makes {child}, a copy of {who}. It returns in both: {pid} (the pid of {child}) '
                    'in {who}, 0 in {child}. Both have {fds}.'),
    'fork bare': 'fork() makes {child}, a copy of {who}.',
    'thread': '{Who} starts {child}. The thread uses the same descriptors as {who}; nothing is copied.',
    'exec': '{Who} runs another program from here.',
    'exit': '{Who} ends.',
    'exit status': '{Who} ends with exit status {status}.',
    'thread ends': '{Who} ends. Its process goes on.',
    'killed': '{signal} kills {who}.',
    'exit FIN': 'The kernel closes what it had open, and FIN goes to {clients}.',
    'exit RST': 'The kernel closes what it had open, and RST goes to {reset}, as bytes lie unread.',
    'zombie': "It stays in the kernel's process table, as a zombie, until {parent} asks with wait() or "
              'waitpid() how it ended.',
    'sends SIGCHLD': 'The kernel sends SIGCHLD to {parent}.',
    'stays pending': 'It stays pending, because {parent} is stopped.',
    'merged': 'The kernel sends SIGCHLD to {parent} again, but one is pending already. It keeps only one: '
              'this one is lost.',
    'wait waits': 'No child has ended, so {who} waits in wait().',
    'accepts nobody': 'It cannot accept clients meanwhile.',
    'wait waits for one': '{Who} waits in wait() until {child} ends. It does nothing else until then.',
    'wait stopped': '{Who} learns that {child} was stopped. It has not ended!',
    'wait continued': '{Who} learns that {child} goes on.',
    'reaped': '{Who} learns how {child} ended, and the kernel takes the zombie out of its table.',
    'more zombies': '{left:One} left.',
    'more to reap': '{left:One} left for the next call.',
    'last zombie': 'No zombie is left.',
    'none ended': 'waitpid() returns 0 at once (WNOHANG): there are children, but none has ended.',
    'no child': '{name}() fails with ECHILD: {who} has no child any more.',
    'kill': '{Who} sends {signal} to {child}.',
    # signals
    **dict.fromkeys(['CLD_EXITED', 'CLD_KILLED', 'CLD_DUMPED'],
                    'SIGCHLD comes to {who}. It does not say which child has ended.'),
    'CLD_STOPPED': 'SIGCHLD comes to {who}. {Child} has not ended! It was only stopped.',
    'CLD_CONTINUED': 'SIGCHLD comes to {who}. {Child} has not ended! It goes on again.',
    'no handler': 'There is no handler, so the kernel discards it.',
    'no handler waits': 'There is no handler, so the kernel discards it: {where} goes on waiting.',
    'interrupts': 'The signal interrupts {where}, because {who} has a handler for it.',
    'handler next': 'Its handler runs next.',
    'signal': '{signal} comes.',
    'stopped': '{signal} stops {who}: it does nothing until SIGCONT comes.',
    'children go on': 'Its children go on.',
    'continues': 'SIGCONT comes: {who} goes on.',
    # bytes
    'recv waits': '{Who} waits in recv() until client {n} sends something.',
    'recv': 'recv() takes {size} bytes out of the receive buffer.',
    'peek': 'recv() shows {size} bytes in the receive buffer, and leaves them there (MSG_PEEK).',
    'recv FIN': 'recv() returns no bytes: the client has sent FIN.',
    'recv reset': 'recv() fails: the client has reset the connection (RST).',
    'nothing': 'recv() finds nothing, and does not wait (EAGAIN).',
    'read waits': '{Who} waits in read(): nothing has been written into the pipe.',
    'read pipe': '{Who} reads {size} bytes from a pipe.',
    'send waits': '{Who} waits in send(): the buffers are full, because client {n} does not read.',
    'send': 'send() sends {size} bytes. They lie in the receive buffer of client {n} until it reads them.',
    'sent': 'send() returns: it has found room for all {size} bytes, as the client has read.',
    'send and is reset': 'send() takes {size} bytes, but the client has closed its end: RST comes back.',
    'send reset': 'send() fails: the client has gone.',
    'full': 'send() finds the buffers full, and does not wait (EAGAIN).',
    'shutdown': '{Who} sends FIN with shutdown(): the reply ends, and it can still read.',
    'shutdown late': '{Who} calls shutdown(), but FIN has gone out already.',
    # close
    'close kept': '{Who} closes its copy of connection {n}, descriptor {fd}. No FIN goes out: {holders} '
                  'still {holders:has} a copy.',
    'close FIN': '{Who} closes descriptor {fd}, the last descriptor of connection {n}: the kernel sends FIN.',
    'close only': '{Who} closes descriptor {fd}, and with it connection {n}: the kernel sends FIN.',
    'close RST': '{Who} closes descriptor {fd}, the last descriptor of connection {n}, while {unread} bytes '
                 'lie unread: the kernel sends RST instead of FIN.',
    'close gone': '{Who} closes descriptor {fd}, the last descriptor of connection {n}. The client has gone '
                  'before: no process has an end of it any more.',
    'close late': '{Who} closes descriptor {fd}, the last descriptor of connection {n}. FIN has gone out '
                  'before.',
    'close': '{Who} closes descriptor {fd} ({what}).',
    'close listening': '{Who} closes its copy of the listening socket, descriptor {fd}: {holders} still '
                       '{holders:has} a copy.',
    'close listening last': '{Who} closes the listening socket: nobody can connect any more.',
    'dup': '{Who} makes a copy of descriptor {fd} ({what}): {copy}.',
    'pipe': '{Who} makes a pipe.',
    # other calls
    'called again': "{Who} waits in {where} again: the server's own loop has called it.",
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
    **dict.fromkeys(['fork bare', 'fork without lines'], (5, 'fork() makes {child}')),
    'thread': (5, 'A thread: no copies'),
    'handler': (3, '{Who} gets a handler for {signal}'),
    'close kept': (9, '{Who} closes its copy: no FIN, {holders} still {holders:has} a copy'),
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
    'gives up': (8, '{Who} gives up: CLOSE_WAIT'),
    'zombie': (8, '{Who} is a zombie'),
    'merged': (9, 'This SIGCHLD is lost: one is pending already'),
    'more zombies': (9, 'One wait() for several zombies: {left:one} left'),
    'more to reap': (9, 'waitpid() reaps one zombie: {left:one} left'),
    'last zombie': (7, 'The last zombie is reaped'),
    'reaped': (6, '{Who} asks how {child} ended'),
    'no child': (6, '{Who} has no child any more'),
    'ends zombies': (8, 'The end: {zombies} {zombies:zombie}'),
    'ends open': (9, '{holder:Begun} still has descriptor {fd}: CLOSE_WAIT'),
    'ends stuck': (8, 'The end: who waits for whom'),
    'handler begins again': (8, 'The handler begins inside itself'),
    'uncaught': (9, '{error} ends {who}'),
    'recv waits': (1, '{Who} waits in recv()'),
    'receives FIN': (5, '{Who} has its whole reply'),
    'catches': (7, 'Line {number} catches {caught}'),
    'called again': (8, "The server's own loop calls {where} again"),
    'none ended': (6, 'WNOHANG: {who} does not wait'),
    'wait waits': (7, '{Who} waits in wait()'),
    'interrupts': (6, '{signal} interrupts {where}'),
    'EINTR': (7, '{name}() ends with EINTR'),
    'again': (6, 'Python calls {where} again'),
    'no handler': (5, 'A SIGCHLD, and no handler'),
    'no handler waits': (5, 'A SIGCHLD, and no handler'),
    'stopped': (7, '{Who} is stopped'),
    'continues': (5, '{Who} goes on'),
    'exit status': (9, '{Who} ends with exit status {status}'),
    'killed': (9, '{signal} kills {who}'),
    'ready': (2, '{name}() says what is ready'),
}


TERMS = {  # what is said of a word where it comes for the first time
    'descriptor': 'A descriptor is a number for something that the process has open.',
    'backlog': 'The backlog is the queue of connections that nobody has accepted yet.',
    'FIN': 'FIN means: I send nothing more.',
    'RST': 'RST means: this connection is broken off.',
    'CLOSE_WAIT': 'CLOSE_WAIT means: FIN has come from the other end, and this end is still open.',
}


def explained(text, known):
    """The text with what its new words mean; known is a set of those that are not new."""
    new = [word for word in TERMS if word in text and word not in known]
    known.update(new)
    return ' '.join([text, *map(TERMS.get, new)])


def told(step):
    """The sentence of a step."""
    values = Names.of(step)
    keys = ['waits' if step.kind == 'waits' and key not in SAID else key for key in step.keys]
    return ' '.join(SAID[key].format_map(values).strip() for key in keys)


FORMS = {  # of one, and of several
    'has': ('has', 'have'),
    'zombie': ('is still a zombie', 'are still zombies'),
    'end': ('its end', 'their ends'),
    'stay': ('It stays', 'They stay'),
}


class Number(int):
    """A number of zombies: 'one zombie is' or '2 zombies are'."""

    def __format__(self, form):
        words = 'one zombie is' if self == 1 else f'{int(self)} zombies are'
        return begun(words) if form == 'One' else words


class Names(list):
    """Names in a sentence: 'the server and child 1'; with 'has' as format the verb for them, see FORMS."""

    def __format__(self, form):
        names = joined([called(name) for name in self])
        return begun(names) if form == 'Begun' else FORMS[form][len(self) != 1] if form else names

    @classmethod
    def of(cls, step):
        """The values of a step as sentences have them."""
        values = {name: cls(value) if isinstance(value, list) else value
                  for name, value in step.values.items()}
        values |= {name: called(values[name]) for name in ('child', 'parent') if values.get(name)}
        fds, who = values.get('fds', []), called(step.who)
        states = {'stopped': 'is stopped', 'backlog': 'is still in the backlog'}
        places = [f'{called(name)} {states.get(state, f"waits in {where}")}'
                  for name, state, where in values.get('places', [])]
        values |= {'zombies_of': called(values.get('zombies_of') or '')}
        return values | {'who': who, 'Who': begun(who),
                         'Places': f' {begun("; ".join(places))}.' * bool(places),
                         'Child': begun(values.get('child') or ''), 'left': Number(values.get('left') or 0),
                         'fds': f'descriptor{"s" * (len(fds) > 1)} {joined(fds)}'}


def joined(words):
    return ' and '.join(filter(None, [', '.join(words[:-1]), *words[-1:]]))


def called(name):
    return 'the server' if name == 'server' else name


def begun(text):
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]
