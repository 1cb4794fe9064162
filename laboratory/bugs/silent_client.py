"""answers other clients while one is silent"""
from laboratory.instruments import children
from laboratory.instruments.children import number_of_clients
from laboratory.instruments.client import ask, connected, read_reply, readable
from laboratory.instruments.experiment import Case, NoAnswer, about, bug, passed
from laboratory.instruments.views import connections


def experiment(server, step):
    before, silent = len(server.processes()), connected(server)
    for number in range(number_of_clients(server)):  # more than one: a worker of several may be held up
        case, which = ('later_client', 'a later') if number else ('waits', 'a second')
        other = connected(server)
        is_answered = children.answers_in_a_while(other, server)
        if number == 0 or not is_answered:
            step(f'One client is connected and says nothing; {which} one has sent its request', connections)
        if not is_answered:
            silent.close()
            if not read_reply(other, server).data:
                raise NoAnswer(f'{which} client is not answered, even after the silent one has gone')
            return bug(case, f'{which} client waits while another one is silent')
        other.close()  # else the end of it may hold up a worker
        if number == 0:
            server.let_rest()
            reply = read_reply(silent, server) if readable(silent) else None
            if reply and (not reply.data or reply.status == 408):
                return bug('cut_off', 'the silent client is cut off before it speaks')
            if not reply and not ask(silent, server):
                return bug('cut_off', 'the silent client is not answered when it speaks')
            silent.close()
            silent = connected(server)
    silent.close()
    server.let_rest()
    left = len(server.processes()) - before
    stay = f'; {left} more processes than before still run' * (left >= number_of_clients(server))
    return passed(f'a second client is answered while the first one is silent{stay}')


CASES = {
    'waits': Case(
        'waits for a silent client',
        'sleep 5 | curl -s -m 5 telnet://localhost:8888 & sleep 1; curl -m 2 localhost:8888/hello',
        r'curl: \(28\)',
        'You see curl time out: while you wait for one client, you serve nobody else.', """
        Let a client say nothing for a while:
        {see}
        Who gets no greeting? Where in your code is the server while a client is silent?

        While a process waits for the silent client, it can do nothing else. So give each client a process
        of its own, and let the first process take the next client at once, without waiting for it.

        In serve_forever(), call os.fork() after accept(). It returns 0 in the new process, the child: call
        handle_request() there, close the socket, and end with os._exit(0), or the child goes on in your
        loop. The parent goes straight back to accept()."""),
    'later_client': Case(
        'waits for the child of a silent client',
        'sleep 5 | curl -s -m 5 telnet://localhost:8888 & sleep 1; '
        'for i in 1 2; do curl -m 2 localhost:8888/hello; sleep 1; done', '',
        'You see the second curl time out: something waits for the silent client, such as a wait() for its '
        'child. Use WNOHANG.', """
        One client is silent, a second one is answered, and the next one waits:
        {see}
        If your server forks for each client, the child of the second one has ended in between.

        If your server waits for its children, anywhere, it also waits for that of the silent client, which
        doesn't end. It may only ask whether one has ended.

        Look for os.wait(), and for os.waitpid() without os.WNOHANG. os.waitpid(-1, os.WNOHANG) never waits:
        it returns (0, 0) if there are children, but none has ended. Then leave your loop.""",
        cured_by='part3-final'),
    'cut_off': Case(
        'cuts off a client that is silent for a moment',
        r"(sleep 2; printf 'GET /hello HTTP/1.1\r\nHost: x\r\n\r\n'; sleep 1) | "
        'curl -s -m 5 telnet://localhost:8888', '',
        'You see no greeting: you make room for others at the cost of this client. Serve both at once.'),
}
BUG = about(
    globals(), scene=children.one_is_silent,
    witness='a second client waits while another one is silent',
    predict='One client is connected and says nothing. Is the next one answered?',
    why='one process cannot wait for two clients. A child for each client can.')
