"""What each system call changes in the model of a kernel, and what is said of it: a function for each."""
import re
from ast import literal_eval

from laboratory.instruments.model import File
from laboratory.instruments.timeline import FORKS, RIGHTS, TOLD

PYTHON = {'accept4': 'accept', 'wait4': 'wait', 'epoll_pwait': 'epoll_wait', 'pselect6': 'select', 'ppoll': 'poll',
          'epoll_create1': 'epoll_create', 'pipe2': 'pipe', **dict.fromkeys(FORKS, 'fork'), **TOLD}
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
MOST_OUTPUT = 1000  # characters of what was printed, the last ones


def called(name, call, result=''):
    """A call as it is shown, in Python's names: accept(3) = 4."""
    argument = call.first if call.first.isdigit() else ''
    return f'{name}({argument})' + (f' = {result}' if result else '')


def fine(call):
    return call.result.isdigit()


def error(call):
    """The name of the error that a call has ended with: EAGAIN."""
    return call.error.split()[0] if call.error.split() else ''


def on_socket(steps, process, call, kind):
    if fine(call) and 'SOCK_STREAM' in call.args and 'AF_INET' in call.args:
        steps.has_begun = True
        process.table[call.result] = File('socket')
        steps.say(process, kind, 'socket', call=f'socket() = {call.result}', fd=call.result)


def on_bind(steps, process, call, kind):
    if fine(call) and call.first in process.table:
        steps.say(process, kind, 'bind', call=f'bind({call.first}, 8888)', fd=call.first)
    elif call.first in process.table:
        steps.say(process, kind, 'fails', call=f'bind({call.first}, 8888) = {error(call)}', error=error(call), name='bind')


def on_listen(steps, process, call, kind):
    if fine(call) and call.first in process.table:
        process.table[call.first].kind = 'listening'
        steps.kernel.limit = int(call.args.split(',')[1])
        steps.say(process, kind, 'listen', call=f'listen({call.first}, {steps.kernel.limit})', limit=steps.kernel.limit)


def on_accept(steps, process, call, kind):
    if call.first not in process.table:
        return
    if not fine(call):
        key = 'nobody' if error(call) == 'EAGAIN' else 'fails'
        return steps.say(process, kind, key, call=called('accept', call, error(call)), error=error(call),
                         name='accept')
    port = re.search(r'htons\((\d+)\)', call.args)
    connection = steps.kernel.accept(process, call.result, port and int(port[1]))
    steps.say(process, kind, 'accept', call=called('accept', call, call.result), fd=call.result,
              n=connection and connection.number, left=len(steps.kernel.backlog()))


def on_fork(steps, process, call, kind):
    if not fine(call) or int(call.result) in steps.kernel.processes:
        return
    is_thread = 'CLONE_THREAD' in call.args
    child = steps.kernel.fork(process, int(call.result), is_thread)
    steps.say(process, kind, 'thread' if is_thread else 'fork',
              call='' if is_thread else f'fork() = {child.number}', child=child.name,
              fds=[fd for fd, file in process.table.items() if file.kind in ('listening', 'connection')])


def on_exec(steps, process, call, kind):
    if fine(call):
        process.table.clear()
        steps.say(process, kind, 'exec', call='exec()', program=call.first)


def on_close(steps, process, call, kind):
    closed = steps.kernel.close(process, call.first) if fine(call) else None
    if not closed or closed.file.kind == 'epoll':
        return
    file, key = closed.file, 'close'
    if file.kind == 'listening':
        key = 'close listening' if closed.holders else 'close listening last'
    elif file.connection:
        key = ('close kept' if closed.holders else 'close RST' if closed.sent == 'RST' else 'close gone'
               if 'client' in file.connection.closed else 'close FIN' if closed.sent else 'close late')
    steps.say(process, kind, key, call=called('close', call), fd=call.first, what=str(file),
              n=file.connection and file.connection.number, holders=closed.holders, unread=closed.unread)


def on_recv(steps, process, call, kind):
    file = process.table.get(call.first)
    if not file or file.kind not in ('connection', 'pipe'):
        return
    name = 'recv' if file.connection else 'read'
    about, shown = steps.about(process, call), called(name, call, call.result if fine(call) else error(call))
    if not fine(call):
        key = {'EAGAIN': 'nothing', 'ECONNRESET': 'recv reset'}.get(error(call), 'fails')
        return steps.say(process, kind, key, call=shown, error=error(call), name=name, **about)
    if not file.connection:
        return steps.say(process, kind, 'read pipe', call=shown, size=call.result, **about)
    file.connection.receive('server', int(call.result))
    steps.say(process, kind, 'recv' if call.result != '0' else 'recv FIN', call=shown, size=call.result,
              left=file.connection.unread['server'], **about)


def on_send(steps, process, call, kind):
    file = process.table.get(call.first)
    if not file and call.first in ('1', '2') and fine(call):
        return on_print(steps, process, call, kind)
    if not file or not file.connection:
        return
    about, shown = steps.about(process, call), called('send', call, call.result if fine(call) else error(call))
    if not fine(call):
        key = {'EAGAIN': 'full', 'EPIPE': 'send reset', 'ECONNRESET': 'send reset'}.get(error(call), 'fails')
        return steps.say(process, kind, key, call=shown, error=error(call), name='send', **about)
    file.connection.early = 0
    is_reset = file.connection.send('server', int(call.result))
    steps.say(process, kind, 'send and is reset' if is_reset else 'sent' if kind == 'returns' else 'send', call=shown, size=call.result, **about)


def on_print(steps, process, call, kind):
    string = STRING.search(call.args)
    text = literal_eval(f'b"{string[1]}"').decode(errors='backslashreplace') if string else ''
    is_cut = string and call.args.startswith('...', string.end())
    text = steps.normal(text) + f'… ({call.result} bytes)\n' * bool(is_cut)
    steps.output = (steps.output + text)[-MOST_OUTPUT:]
    if text.strip():
        steps.say(process, kind, 'prints', text=text.strip().splitlines()[0])


def on_shutdown(steps, process, call, kind):
    file = process.table.get(call.first)
    if fine(call) and file and file.connection and 'SHUT_RD)' not in f'{call.args})':
        sent = file.connection.finish('server')
        steps.say(process, kind, 'shutdown' if sent else 'shutdown late', call=called('shutdown', call),
                  **steps.about(process, call))


def on_setsockopt(steps, process, call, kind):
    if 'SO_LINGER' in call.args and 'onoff=1, linger=0' in call.args.replace('l_', '') and call.first in process.table:
        process.table[call.first].lingers = False


def on_wait4(steps, process, call, kind):
    nohang = 'WNOHANG' in call.args
    name, shown = ('waitpid', 'waitpid(-1, WNOHANG)') if nohang else ('wait', 'wait()')
    if not fine(call):
        key = 'no child' if error(call) == 'ECHILD' else 'fails'
        return steps.say(process, kind, key, call=f'{shown} = {error(call)}', error=error(call), name=name)
    child = steps.kernel.processes.get(int(call.result))
    if not child:
        return steps.say(process, kind, 'none ended', call=f'{shown} = 0')
    if 'WIFSTOPPED' not in call.args:
        steps.kernel.reap(child)
    left = sum(other.state == 'zombie' for other in steps.kernel.children(process))
    steps.say(process, kind, 'reaped', *['more zombies'] * bool(left), call=f'{shown} = {child.number}',
              child=child.name, left=left)


def on_poll(steps, process, call, kind):
    name = PYTHON.get(call.name, call.name)
    if fine(call):
        key = 'ready' if call.result != '0' else 'times out'
        steps.say(process, kind, key, call=f'{name}() = {call.result}', count=call.result, name=name)


def on_sigaction(steps, process, call, kind):
    match = re.match(r'(SIG[A-Z]+\d?), \{sa_handler=(\w+)', call.args)
    if match and fine(call):
        process.handlers[match[1]] = match[2]
        if match[2] != 'SIG_DFL':  # as Python sets it when it ends
            key = 'SIG_IGN' if match[2] == 'SIG_IGN' else 'handler'
            steps.say(process, kind, key, call=f'signal({match[1]})', signal=match[1])


def on_sigreturn(steps, process, call, kind):
    """The handler that C knows has returned, before Python runs that of the program."""
    if 'EINTR' in call.error and process.pid in steps.interrupted:
        name = steps.interrupted[process.pid]
        steps.say(process, 'returns', 'EINTR', call=f'{name}() = EINTR', name=name)


def on_kill(steps, process, call, kind):
    other = steps.kernel.processes.get(int(call.first))
    if fine(call) and other:
        signal = call.args.split()[-1]
        steps.say(process, kind, 'kill', call=f'kill({other.number}, {signal})', child=other.name, signal=signal)


def on_dup(steps, process, call, kind):
    file = process.table.get(call.first)
    if not file or not fine(call) or call.name == 'fcntl' and 'F_DUPFD' not in call.args:
        return
    steps.kernel.close(process, call.result)
    process.table[call.result] = file
    steps.say(process, kind, 'dup', call=called('dup', call, call.result), fd=call.first, copy=call.result,
              what=str(file))


def on_pipe(steps, process, call, kind):
    if ends := re.match(r'\[(\d+), (\d+)\]', call.args):
        process.table |= {end: File('pipe') for end in ends.groups()}
        steps.say(process, kind, 'pipe', call=f'pipe() = {ends[1]}, {ends[2]}')


def on_epoll(steps, process, call, kind):
    if fine(call):
        process.table[call.result] = File('epoll')


HANDLERS = {
    'socket': on_socket, 'bind': on_bind, 'listen': on_listen, 'accept': on_accept, 'fork': on_fork,
    'execve': on_exec, 'close': on_close, 'recv': on_recv, 'read': on_recv, 'send': on_send, 'write': on_send, 'shutdown': on_shutdown,
    'setsockopt': on_setsockopt, 'wait': on_wait4, 'select': on_poll, 'poll': on_poll, 'epoll_wait': on_poll,
    'rt_sigaction': on_sigaction, 'rt_sigreturn': on_sigreturn, 'kill': on_kill, 'dup': on_dup, 'dup2': on_dup,
    'dup3': on_dup, 'fcntl': on_dup, 'pipe': on_pipe, 'epoll_create': on_epoll,
}
