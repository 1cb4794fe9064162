"""What each system call changes in the model of a kernel, and what is said of it: a function for each.

Each is given the Steps, the Process that has made the call, the Call, and the kind of the step: 'returns'
where the process has waited in it, else 'call'.
"""
import re
from ast import literal_eval

from laboratory.instruments.model import File
from laboratory.instruments.timeline import FORKS, TOLD

PYTHON = {  # what calls are called here
    'accept4': 'accept', 'wait4': 'wait', 'epoll_pwait': 'epoll_wait', 'pselect6': 'select', 'ppoll': 'poll',
    'epoll_create1': 'epoll_create', 'pipe2': 'pipe', **dict.fromkeys(FORKS, 'fork'), **TOLD}
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
PORT = re.compile(r'htons\((\d+)\)')
MOST_OUTPUT = 1000  # characters of what was printed, the last ones


def called(name, call, result=''):
    """A call as it is shown: accept(3) = 4."""
    argument = call.first if call.first.isdigit() else ''
    return f'{name}({argument})' + (f' = {result}' if result else '')


def fine(call):
    return call.result.isdigit()


def result_of(call):
    """What it has returned, or the name of its error: EAGAIN."""
    return call.result if fine(call) else (call.error.split() or [''])[0]


def fails(steps, process, call, kind, name, keys=(), **values):
    """A call that has ended with an error; some of them have a key of their own."""
    error = result_of(call)
    steps.say(process, kind, dict(keys).get(error, 'fails'), call=called(name, call, error), error=error,
              name=name, **values)


def on_socket(steps, process, call, kind):
    if fine(call) and 'SOCK_STREAM' in call.args and 'AF_INET' in call.args:
        steps.has_begun = True
        process.table[call.result] = File('socket')
        steps.say(process, kind, 'socket', call=f'socket() = {call.result}', fd=call.result)


def on_bind(steps, process, call, kind):
    port = PORT.search(call.args)
    if call.first not in process.table or not port:
        return
    if not fine(call):
        return fails(steps, process, call, kind, 'bind')
    if port[1] in ('0', str(steps.port)):
        process.table[call.first].is_servers = True
        steps.say(process, kind, 'bind', call=f'bind({call.first}, 8888)', fd=call.first)


def on_listen(steps, process, call, kind):
    file = process.table.get(call.first)
    if fine(call) and file and file.is_servers:
        file.kind, steps.kernel.limit = 'listening', int(call.args.split(',')[1])
        limit = steps.kernel.limit
        steps.say(process, kind, 'listen', call=f'listen({call.first}, {limit})', limit=limit)


def on_accept(steps, process, call, kind):
    if str(process.table.get(call.first)) != 'listening':
        return
    if not fine(call):
        return fails(steps, process, call, kind, 'accept', {'EAGAIN': 'nobody'})
    port = PORT.search(call.args)
    connection = steps.kernel.accept(process, call.result, port and int(port[1]))
    if connection:
        steps.say(process, kind, 'accept', call=called('accept', call, call.result), fd=call.result,
                  n=connection.number)


def on_fork(steps, process, call, kind):
    if not fine(call) or int(call.result) in steps.kernel.processes:
        return
    is_thread = 'CLONE_THREAD' in call.args
    child = steps.kernel.fork(process, int(call.result), is_thread)
    fds = [fd for fd, file in process.table.items() if file.connection or file.kind == 'listening']
    key = 'fork bare' if not fds else 'fork without lines' if process.line is None else 'fork'
    steps.forked |= set() if is_thread else {child.pid}
    steps.say(process, kind, 'thread' if is_thread else key, child=child.name, pid=child.number, fds=fds,
              call='' if is_thread else f'fork() = {child.number}')


def on_exec(steps, process, call, kind):
    if fine(call):
        process.table.clear()  # as Python has its descriptors closed then
        steps.say(process, kind, 'exec', call='exec()')


def on_close(steps, process, call, kind):
    closed = steps.kernel.close(process, call.first) if fine(call) else None
    if closed and closed.file.kind != 'epoll':
        connection = closed.file.connection
        steps.say(process, kind, close_key(closed), call=called('close', call), fd=call.first,
                  what=str(closed.file), n=connection and connection.number, holders=closed.holders,
                  unread=closed.unread)


def close_key(closed):
    """What is said of a close(), by what it has done."""
    connection = closed.file.connection
    if not connection:
        last = '' if closed.holders else ' last'
        return f'close listening{last}' if closed.file.kind == 'listening' else 'close'
    if closed.holders:
        return 'close kept'
    if closed.sent == 'RST':
        return 'close RST'
    if 'client' in connection.closed:
        return 'close gone'
    return 'close late' if not closed.sent else 'close FIN' if closed.file.is_copied else 'close only'


def on_recv(steps, process, call, kind):
    file = process.table.get(call.first)
    if not file or file.kind not in ('connection', 'pipe'):
        return
    name, about = 'recv' if file.connection else 'read', steps.about(process, call)
    if not fine(call):
        errors = {'EAGAIN': 'nothing', 'ECONNRESET': 'recv reset'}
        return fails(steps, process, call, kind, name, errors, **about)
    key = 'read pipe' if not file.connection else 'recv' if call.result != '0' else 'recv FIN'
    if 'MSG_PEEK' in STRING.sub('', call.args):
        key = 'peek' if key == 'recv' else key
    elif file.connection:
        file.connection.receive('server', int(call.result))
    steps.say(process, kind, key, call=called(name, call, call.result), size=call.result, **about)


def on_send(steps, process, call, kind):
    file, about = process.table.get(call.first), steps.about(process, call)
    if not file and call.first in ('1', '2') and fine(call):
        return on_print(steps, process, call, kind)
    if not file or not file.connection:
        return
    if not fine(call):
        errors = {'EAGAIN': 'full', 'EPIPE': 'send reset', 'ECONNRESET': 'send reset'}
        return fails(steps, process, call, kind, 'send', errors, **about)
    file.connection.early = 0
    is_reset = file.connection.send('server', int(call.result))
    key = 'send and is reset' if is_reset else 'sent' if kind == 'returns' else 'send'
    steps.say(process, kind, key, call=called('send', call, call.result), size=call.result, **about)


def on_print(steps, process, call, kind):
    string = STRING.search(call.args)
    text = literal_eval(f'b"{string[1]}"').decode(errors='backslashreplace') if string else ''
    is_cut = string and call.args.startswith('...', string.end())
    text = steps.normal(text) + f'… ({call.result} bytes)\n' * bool(is_cut)
    steps.output, steps.printed = (steps.output + text)[-MOST_OUTPUT:], steps.printed + len(text)
    if text.strip():
        steps.say(process, kind, 'prints', text=text.strip().splitlines()[0])


def on_shutdown(steps, process, call, kind):
    file = process.table.get(call.first)
    if fine(call) and file and file.connection and not call.args.endswith('SHUT_RD'):
        key = 'shutdown' if file.connection.finish('server') else 'shutdown late'
        steps.say(process, kind, key, call=called('shutdown', call), **steps.about(process, call))


def on_setsockopt(steps, process, call, kind):
    if re.search(r'SO_LINGER, \{l?_?onoff=1, l?_?linger=0\}', call.args) and call.first in process.table:
        process.table[call.first].lingers = False
    if 'SO_REUSEADDR, [1]' in call.args and fine(call) and call.first in process.table:
        steps.say(process, kind, 'reuse', call=f'setsockopt({call.first})')


def on_wait(steps, process, call, kind):
    shown, is_patient = wait_shown(steps, call), 'WNOHANG' not in call.args
    name = shown.partition('(')[0]
    if not fine(call):
        key, error = ('no child', 'ECHILD') if 'ECHILD' in call.error else ('fails', result_of(call))
        return steps.say(process, kind, key, call=f'{shown} = {error}', name=name, error=error)
    child = steps.kernel.processes.get(int(call.result))
    if not child:
        return steps.say(process, kind, 'none ended', call=f'{shown} = 0')
    if goes_on := re.search('WIF(STOPPED|CONTINUED)', call.args):
        return steps.say(process, kind, f'wait {goes_on[1].lower()}', call=f'{shown} = {child.number}',
                         child=child.name)
    steps.kernel.reap(child)
    left = sum(other.state == 'zombie' for other in steps.kernel.children(process))
    if is_patient:
        more = ['more zombies'] * bool(left)
    else:
        more = ['more to reap' if left else 'last zombie']
    steps.say(process, kind, 'reaped', *more, call=f'{shown} = {child.number}', child=child.name, left=left)


def wait_shown(steps, call):
    """wait(), or waitpid() with what Python's has been given."""
    child = steps.kernel.processes.get(int(call.first)) if call.first.isdigit() else None
    which, option = child.number if child else call.first, 'WNOHANG' if 'WNOHANG' in call.args else '0'
    return 'wait()' if (which, option) == ('-1', '0') else f'waitpid({which}, {option})'


def on_poll(steps, process, call, kind):
    name = PYTHON.get(call.name, call.name)
    if fine(call):
        key = 'ready' if call.result != '0' else 'times out'
        steps.say(process, kind, key, call=f'{name}() = {call.result}', name=name)


def on_sigaction(steps, process, call, kind):
    match = re.match(r'(SIG[A-Z]+\d?), \{sa_handler=(\w+)', call.args)
    if match and fine(call):
        signal, process.handlers[match[1]] = match.groups()
        if match[2] != 'SIG_DFL':  # as Python sets it when it ends
            key = 'SIG_IGN' if match[2] == 'SIG_IGN' else 'handler'
            steps.say(process, kind, key, call=f'signal({signal})', signal=signal)


def on_sigreturn(steps, process, call, kind):
    """The kernel's part of a signal is over, and the call that it has interrupted ends."""
    if 'EINTR' in call.error and process.pid in steps.interrupted:
        name = steps.interrupted[process.pid]
        steps.failed.add(process.pid)
        steps.say(process, 'returns', 'EINTR', call=f'{name}() = EINTR', name=name)


def on_kill(steps, process, call, kind):
    other = steps.kernel.processes.get(int(call.first)) if call.first.isdigit() else None
    if fine(call) and other:
        signal = call.args.split()[-1]
        steps.say(process, kind, 'kill', call=f'kill({other.number}, {signal})', child=other.name,
                  signal=signal)


def on_dup(steps, process, call, kind):
    file = process.table.get(call.first)
    if file and fine(call) and (call.name != 'fcntl' or 'F_DUPFD' in call.args):
        steps.kernel.close(process, call.result)
        process.table[call.result], file.is_copied = file, True
        steps.say(process, kind, 'dup', call=called('dup', call, call.result), fd=call.first,
                  copy=call.result, what=str(file))


def on_pipe(steps, process, call, kind):
    if ends := re.match(r'\[(\d+), (\d+)\]', call.args):
        process.table |= {end: File('pipe') for end in ends.groups()}
        steps.say(process, kind, 'pipe', call=f'pipe() = {ends[1]}, {ends[2]}')


def on_epoll(steps, process, call, kind):
    if fine(call):
        process.table[call.result] = File('epoll')


HANDLERS = {  # by the name in Python
    'socket': on_socket, 'bind': on_bind, 'listen': on_listen, 'accept': on_accept, 'fork': on_fork,
    'execve': on_exec, 'close': on_close, 'recv': on_recv, 'read': on_recv, 'send': on_send, 'write': on_send,
    'shutdown': on_shutdown, 'setsockopt': on_setsockopt, 'wait': on_wait, 'select': on_poll, 'poll': on_poll,
    'epoll_wait': on_poll, 'rt_sigaction': on_sigaction, 'rt_sigreturn': on_sigreturn, 'kill': on_kill,
    'dup': on_dup, 'dup2': on_dup, 'dup3': on_dup, 'fcntl': on_dup, 'pipe': on_pipe, 'epoll_create': on_epoll}
