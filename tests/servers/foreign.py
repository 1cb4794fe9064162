"""Servers that are built otherwise than the stages, or wrong otherwise: foreign.py NAME."""
import contextlib
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

PORT = int(os.environ['PORT'])
REPLY = b'HTTP/1.1 200 OK\r\n\r\nHello, World!\n'


def listen(port=PORT, family=socket.AF_INET, host='127.0.0.1', option=socket.SO_REUSEADDR):
    listen_socket = socket.socket(family, socket.SOCK_STREAM)
    listen_socket.setsockopt(socket.SOL_SOCKET, option, 1)
    listen_socket.bind((host, port))
    listen_socket.listen(128)
    return listen_socket


def handle(client_fd):
    try:
        client_fd.recv(1024)
        client_fd.sendall(REPLY)
    except ConnectionError:
        pass


def answer(client_fd):
    """Answer in two pieces, and let all errors through."""
    client_fd.recv(1024)
    client_fd.sendall(REPLY[:19])
    client_fd.sendall(REPLY[19:])


def iterate(listen_socket, accepted=lambda number, client_fd: None, handle=handle):
    """Serve one client after the other; accepted() is called before each is handled."""
    for number in range(1, sys.maxsize):
        client_fd, client_addr = listen_socket.accept()
        accepted(number, client_fd)
        handle(client_fd)
        client_fd.close()


def fork_for_each(listen_socket, handle=handle, accepted=lambda number, client_fd: None):
    for number in range(1, sys.maxsize):
        client_fd, client_addr = listen_socket.accept()
        accepted(number, client_fd)
        if os.fork() == 0:
            listen_socket.close()
            handle(client_fd)
            client_fd.close()
            os._exit(0)
        client_fd.close()


def reap(signum, frame):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def workers(serve):
    """Three processes that serve, under one that does not."""
    for _ in range(3):
        if os.fork() == 0:
            serve()
    while True:
        signal.pause()


def ports_of_its_own():
    workers(lambda: iterate(listen(option=socket.SO_REUSEPORT)))


def workers_that_wait():
    signal.signal(signal.SIGCHLD, lambda signum, frame: os.wait())
    listen_socket = listen()
    workers(lambda: fork_for_each(listen_socket))


def workers_with_zombies():
    listen_socket = listen()
    workers(lambda: fork_for_each(listen_socket))


def worker_for_each():
    """A worker ends after one client, and another one takes its place."""
    listen_socket, living = listen(), 0
    while True:
        living += 1
        if os.fork() == 0:
            client_fd, client_addr = listen_socket.accept()
            handle(client_fd)
            os._exit(0)
        if living == 3:
            os.wait()
            living -= 1


def two_ports():
    """Serves one client after the other on a port of its choice, and all at once on PORT."""
    threading.Thread(target=iterate, args=[listen(port=0)], daemon=True).start()
    time.sleep(0.4)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    fork_for_each(listen())


def leaks_the_second():
    kept = []
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    fork_for_each(listen(), accepted=lambda number, client_fd:
                  number % 2 == 0 and kept.append(os.dup(client_fd.fileno())))


def forks_late():
    """Forks once it has read the request."""
    listen_socket = listen()
    while True:
        client_fd, client_addr = listen_socket.accept()
        client_fd.recv(1024)
        if os.fork() == 0:
            client_fd.sendall(REPLY)
            os._exit(0)
        client_fd.close()


def forks_late_and_reaps():
    signal.signal(signal.SIGCHLD, reap)
    forks_late()


def children_that_stay():
    def handle_and_stay(client_fd):
        handle(client_fd)
        client_fd.close()
        signal.pause()
    signal.signal(signal.SIGCHLD, reap)
    fork_for_each(listen(), handle=handle_and_stay)


def reaps_each_second():
    def tick():
        while True:
            time.sleep(1)
            reap(None, None)
    threading.Thread(target=tick, daemon=True).start()
    fork_for_each(listen())


def sleeps(seconds):
    """The child sleeps before it closes."""
    def handle_and_sleep(client_fd):
        handle(client_fd)
        time.sleep(seconds)
    fork_for_each(listen(), handle=handle_and_sleep)


def sleeps_for_a_while():
    sleeps(7)


def sleeps_for_long():
    sleeps(60)


def sleeps_and_leaks():
    kept = []
    fork_for_each(listen(), lambda client_fd: (handle(client_fd), time.sleep(60)),
                  lambda number, client_fd: kept.append(os.dup(client_fd.fileno())))


def never_closes():
    kept = []
    iterate(listen(), lambda number, client_fd: kept.append(os.dup(client_fd.fileno())))


def shuts_down():
    """The child's shutdown() ends the connection for the parent, too, which never closes it."""
    kept = []
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    fork_for_each(listen(), lambda client_fd: (handle(client_fd), client_fd.shutdown(socket.SHUT_RDWR)),
                  lambda number, client_fd: kept.append(os.dup(client_fd.fileno())))


def forks_twice():
    listen_socket = listen()
    while True:
        client_fd, client_addr = listen_socket.accept()
        if (child := os.fork()) == 0:
            if os.fork() == 0:
                handle(client_fd)
            os._exit(0)
        client_fd.close()
        os.waitpid(child, 0)


def helper():
    """Runs a program each second that has nothing to do with its clients."""
    def tick():
        while True:
            subprocess.run(['true'], check=True)
            time.sleep(1)
    threading.Thread(target=tick, daemon=True).start()
    iterate(listen())


def logger():
    """Serves one client after the other, and starts a program for each of them, which stays."""
    iterate(listen(), lambda number, client_fd: subprocess.Popen(['sleep', '60']))


def logger_that_listens():
    """The same, and the program has a copy of each descriptor, as in C."""
    listen_socket = listen()
    listen_socket.set_inheritable(True)
    iterate(listen_socket, lambda number, client_fd: subprocess.Popen(['sleep', '60'], close_fds=False))


def spare_worker():
    """A pool that grows: a worker that has a client tells the parent, which forks another one."""
    listen_socket, (reader, writer) = listen(), os.pipe()
    while True:
        if os.fork() == 0:
            iterate(listen_socket, lambda number, client_fd: number == 1 and os.write(writer, b'x'))
        os.read(reader, 1)


def answers_at_once():
    fork_for_each(listen(), handle=lambda client_fd: client_fd.sendall(REPLY))


def is_started_again():
    """A parent starts the server anew whenever it has ended."""
    listen_socket = listen()
    while True:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, reap)
            fork_for_each(listen_socket)
        os.wait()


def fills_a_pool():
    """Opens a descriptor for each of its first 40 clients, and keeps them."""
    kept = []
    iterate(listen(), accepted=lambda number, client_fd: number <= 40 and kept.append(os.dup(0)))


def threads():
    """Has a thread for each client, and waits for them."""
    listen_socket = listen()
    while True:
        client_fd, client_addr = listen_socket.accept()
        threading.Thread(target=lambda client_fd=client_fd: (handle(client_fd), client_fd.close())).start()


def never_rests():
    """Asks for clients again and again instead of waiting for one."""
    listen_socket = listen()
    listen_socket.setblocking(False)
    while True:
        try:
            client_fd, client_addr = listen_socket.accept()
        except BlockingIOError:
            continue
        client_fd.setblocking(True)
        handle(client_fd)
        client_fd.close()


def ipv6():
    signal.signal(signal.SIGCHLD, reap)
    fork_for_each(listen(family=socket.AF_INET6, host='::'))


def resets():
    linger = struct.pack('ii', 1, 0)
    iterate(listen(), lambda number, client_fd:
            client_fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger))


def pauses():
    """Sends the body some time after the headers."""
    listen_socket = listen()
    while True:
        client_fd, client_addr = listen_socket.accept()
        client_fd.recv(1024)
        client_fd.sendall(REPLY[:19])
        time.sleep(0.3)
        client_fd.sendall(REPLY[19:])
        client_fd.close()


def two_pieces():
    iterate(listen(), handle=answer)


def sigpipe():
    """As in C, where nothing ignores SIGPIPE."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    two_pieces()


def sigpipe_in_children():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    fork_for_each(listen(), handle=answer)


def workers_that_end():
    listen_socket = listen()
    workers(lambda: iterate(listen_socket, handle=answer))


def threads_that_end():
    """A pool of threads, each of which ends with the first client that leaves."""
    listen_socket = listen()
    for _ in range(4):
        threading.Thread(target=iterate, args=[listen_socket], kwargs={'handle': answer}, daemon=True).start()
    signal.pause()


def threads_that_stay():
    def handle_and_stay(client_fd):
        handle(client_fd)
        client_fd.close()
        threading.Event().wait()
    listen_socket = listen()
    while True:
        client_fd, client_addr = listen_socket.accept()
        threading.Thread(target=handle_and_stay, args=[client_fd], daemon=True).start()


def keeps_the_wordless():
    """Does not look whether recv() has returned bytes."""
    listen_socket, clients = listen(), []
    while True:
        for ready in select.select([listen_socket, *clients], [], [])[0]:
            if ready is listen_socket:
                clients.append(ready.accept()[0])
            elif ready.recv(1024):
                ready.sendall(REPLY)
                clients.remove(ready)
                ready.close()


def never_stops_at_0():
    """Its handler asks for children that have ended until there are no children."""
    def handle_exit(signum, frame):
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, os.WNOHANG)
    signal.signal(signal.SIGCHLD, handle_exit)
    fork_for_each(listen())


def children_that_listen():
    listen_socket = listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    fork_for_each(listen_socket, accepted=lambda number, client_fd: os.dup(listen_socket.fileno()))


def raises_in_handler():
    def handle_exit(signum, frame):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # once is enough: the traceback comes
        os.wiat()
    signal.signal(signal.SIGCHLD, handle_exit)
    fork_for_each(listen())


def misspells_eintr():
    signal.signal(signal.SIGCHLD, reap)
    try:
        fork_for_each(listen())
    except OSError as error:
        assert error.errno == errno.ENTIR


def ends_at_the_third():
    def accepted(number, client_fd):
        if number == 3:
            print('\x1b[2Jyour screen\x07 \u6f22\u5b57\r', flush=True)
            sys.exit(3)
    iterate(listen(), accepted)


def hangs_at_the_third():
    iterate(listen(), lambda number, client_fd: number == 3 and signal.pause())


def hangs_at_client_42():
    """Children have answered all clients before, and answer those that were silent."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    fork_for_each(listen(), accepted=lambda number, client_fd: number == 42 and signal.pause())


def two_threads():
    """Two clients at a time: while one is silent, the other thread serves all others."""
    listen_socket = listen()
    for _ in range(2):
        threading.Thread(target=iterate, args=[listen_socket]).start()


def three_workers():
    listen_socket = listen()
    workers(lambda: iterate(listen_socket))


def answers_unasked():
    def handle_unasked(client_fd):
        client_fd.sendall(REPLY)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    fork_for_each(listen(), handle=handle_unasked)


def limits(seconds):
    """A child ends when its client has been silent for so long."""
    def handle_until(client_fd):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        handle(client_fd)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    fork_for_each(listen(), handle=handle_until)


def short_limit():
    limits(0.2)


def long_limit():
    limits(10)


def loop(has_come):
    """Serve all at once; has_come(client_fd, came before) says what has come, None where that was all."""
    listen_socket, pieces = listen(), {}
    while True:
        for ready in select.select([listen_socket, *pieces], [], [])[0]:
            if ready is listen_socket:
                client_fd, client_addr = listen_socket.accept()
                pieces[client_fd] = b''
                continue
            came = has_come(ready, pieces.pop(ready))
            if came is not None:
                pieces[ready] = came
            else:
                ready.close()


def answers_at(end, client_fd, came):
    """What has come, or None once that ends a request, which is answered, or the client has left."""
    piece = client_fd.recv(1024)
    if end in came + piece:
        client_fd.sendall(REPLY)
    return came + piece if piece and end not in came + piece else None


def collects():
    loop(lambda client_fd, came: answers_at(b'\r\n\r\n', client_fd, came))


def takes_pieces_for_requests():
    """Looks for a whole request in each piece."""
    loop(lambda client_fd, came: answers_at(b'HTTP/1.1\r\nHost', client_fd, b''))


def waits_in_its_loop():
    """Waits for the rest of a request once it has begun."""
    def has_come(client_fd, came):
        while came is not None:
            came = answers_at(b'\r\n\r\n', client_fd, came)
    loop(has_come)


def spins_when_one_has_left():
    def has_come(client_fd, came):
        while not client_fd.recv(1024):
            pass
        client_fd.sendall(REPLY)
    loop(has_come)


def keeps_connections():
    """Sends a length, and reads on until its client leaves."""
    def handle_all(client_fd):
        while b'\r\n' in client_fd.recv(1024):
            client_fd.sendall(REPLY.replace(b'\r\n', b'\r\nContent-Length: 14\r\n', 1))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    fork_for_each(listen(), handle=handle_all)


def keeps_and_forgets():
    """Sends a length, and closes one of the two copies of the socket."""
    kept = []

    def handle_one(client_fd):
        client_fd.recv(1024)
        client_fd.sendall(REPLY.replace(b'\r\n', b'\r\nContent-Length: 14\r\n', 1))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    fork_for_each(listen(), handle_one, lambda number, client_fd: kept.append(client_fd.dup()))


if __name__ == '__main__':
    globals()[sys.argv[1]]()
