"""Event loops for WSGI, right and wrong: python event_loop.py NAME module:callable, on PORT."""
import contextlib
import importlib
import io
import os
import queue
import selectors
import socket
import sys
import threading
import time
from functools import partial
from wsgiref.handlers import SimpleHandler

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Loop:
    """Calls the application itself, and tries to accept again and again while it has no descriptor."""

    def __init__(self, app):
        self.app, self.selector = app, selectors.DefaultSelector()
        self.listener = socket.create_server(('127.0.0.1', int(os.environ['PORT'])), backlog=100)
        self.watch(self.listener, READ, self.accept)

    def watch(self, connection, event, then):
        connection.setblocking(False)
        self.selector.register(connection, event, then)

    def serve_forever(self):
        while True:
            self.handle(self.selector.select())

    def handle(self, ready):
        for key, _ in ready:
            if key.fileobj in self.selector.get_map():
                try:
                    key.data()
                except ConnectionError:
                    self.close(key.fileobj)

    def accept(self):
        with contextlib.suppress(OSError):
            client, _ = self.listener.accept()
            self.watch(client, READ, partial(self.read, client, bytearray()))

    def read(self, client, received):
        data = client.recv(65536)
        received += data
        if not data:
            self.close(client)
        elif b'\r\n\r\n' in received:
            self.selector.unregister(client)
            self.answer(client, received.split()[1].decode())

    def answer(self, client, path):
        self.send(client, respond(self.app, path))

    def send(self, client, data):
        self.watch(client, WRITE, partial(self.write, client, memoryview(data)))

    def write(self, client, data):
        data = data[client.send(data):]
        if data:
            self.selector.modify(client, WRITE, partial(self.write, client, data))
        else:
            self.close(client)

    def close(self, client):
        self.selector.unregister(client)
        client.close()


def respond(app, path):
    """The whole reply of an application."""
    reply = io.BytesIO()
    env = {'REQUEST_METHOD': 'GET', 'PATH_INFO': path, 'SERVER_PROTOCOL': 'HTTP/1.0'}
    SimpleHandler(io.BytesIO(), reply, sys.stderr, env).run(app)
    return reply.getvalue()


class Resting(Loop):
    """Accepts nobody from when it has no descriptor until a client leaves."""

    def accept(self):
        super().accept()
        try:
            os.close(os.dup(0))
        except OSError:
            self.selector.unregister(self.listener)

    def close(self, client):
        super().close(client)
        if self.listener not in self.selector.get_map():
            self.watch(self.listener, READ, self.accept)


class Dying(Loop):
    """Ends when it has no descriptor."""

    def accept(self):
        os.close(os.dup(0))
        super().accept()


class Retrying(Loop):
    """Tries to accept again and again when it has no descriptor, but for a pause now and then."""

    def accept(self):
        super().accept()
        try:
            os.close(os.dup(0))
        except OSError:
            if (left := 0.6 - time.monotonic() % 0.6) < 0.2:
                threading.Event().wait(left)


class Threads(Loop):
    """Calls the application in a thread, and learns of its reply when something else happens."""

    def __init__(self, app):
        super().__init__(app)
        self.replies = queue.SimpleQueue()

    def handle(self, ready):
        super().handle(ready)
        while not self.replies.empty():
            self.send(*self.replies.get())

    def answer(self, client, path):
        threading.Thread(target=self.run, args=(client, path), daemon=True).start()

    def run(self, client, path):
        self.replies.put((client, respond(self.app, path)))


class ThreadsThatWake(Threads):
    """Is woken by each reply."""

    def __init__(self, app):
        super().__init__(app)
        woken, self.waker = socket.socketpair()
        self.watch(woken, READ, partial(woken.recv, 100))

    def run(self, client, path):
        super().run(client, path)
        self.waker.send(b'x')


if __name__ == '__main__':
    name, path = sys.argv[1:]
    module, _, attribute = path.partition(':')
    globals()[name](getattr(importlib.import_module(module), attribute)).serve_forever()
