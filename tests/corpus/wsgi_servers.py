"""Servers that have no command of their own: python wsgi_servers.py NAME module:callable, on PORT.

Those whose name begins with `part2` are part 2 final, made concurrent as the articles' exercise asks.
aiohttp has an application of its own, and asgi is one for servers that run no WSGI.
"""
import contextlib
import copy
import importlib
import importlib.util
import os
import signal
import socketserver
import sys
import threading
import time
from pathlib import Path

ADDRESS = '127.0.0.1', int(os.environ['PORT'])
GRACE = 0  # seconds; 0 for any number
FINAL = Path(__file__).parents[2] / 'part2/final/server.py'


def wsgiref(app):
    from wsgiref.simple_server import make_server
    make_server(*ADDRESS, app).serve_forever()


def wsgiref_threads(app):
    from wsgiref.simple_server import WSGIServer, make_server

    class Server(socketserver.ThreadingMixIn, WSGIServer):
        daemon_threads = True
    make_server(*ADDRESS, app, Server).serve_forever()


def werkzeug(app):
    from werkzeug.serving import run_simple
    run_simple(*ADDRESS, app)


def werkzeug_threads(app):
    from werkzeug.serving import run_simple
    run_simple(*ADDRESS, app, threaded=True)


def werkzeug_processes(app):
    from werkzeug.serving import run_simple
    run_simple(*ADDRESS, app, processes=4)


def cheroot(app):
    from cheroot.wsgi import Server
    Server(ADDRESS, app).start()


def cherrypy(app):
    import cherrypy
    cherrypy.config.update({'server.socket_host': ADDRESS[0], 'server.socket_port': ADDRESS[1],
                            'engine.autoreload.on': False})
    cherrypy.tree.graft(app)
    cherrypy.engine.start()
    cherrypy.engine.block()


def gevent(app):
    from gevent.pywsgi import WSGIServer
    WSGIServer(ADDRESS, app).serve_forever()


def eventlet(app):
    import eventlet.wsgi
    eventlet.wsgi.server(eventlet.listen(ADDRESS), app)


def twisted(app):
    from twisted.internet import reactor
    from twisted.web.server import Site
    from twisted.web.wsgi import WSGIResource
    site = Site(WSGIResource(reactor, reactor.getThreadPool(), app))
    reactor.listenTCP(ADDRESS[1], site, interface=ADDRESS[0])
    reactor.run()


def tornado(app):
    import asyncio

    from tornado.httpserver import HTTPServer
    from tornado.wsgi import WSGIContainer

    async def serve():
        HTTPServer(WSGIContainer(app)).listen(ADDRESS[1], ADDRESS[0])
        await asyncio.Event().wait()
    asyncio.run(serve())


def paste(app):
    from paste.httpserver import serve
    serve(app, *ADDRESS)


def uvicorn(app):
    import uvicorn
    from a2wsgi import WSGIMiddleware
    uvicorn.run(WSGIMiddleware(app), host=ADDRESS[0], port=ADDRESS[1])


def aiohttp(app):
    from aiohttp import web

    async def hello(request):
        return web.Response(text='Hello, World!')
    application = web.Application()
    application.router.add_get('/hello', hello)
    web.run_app(application, host=ADDRESS[0], port=ADDRESS[1])


async def asgi(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'5')]})
        await send({'type': 'http.response.body', 'body': b'Hello'})


def part2():
    """Part 2 final, as a module."""
    spec = importlib.util.spec_from_file_location('part2_final', FINAL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def part2_forks(app):
    """A child for each client, as in part 3 final."""
    def handle_exit(signum, frame):
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    return
            except ChildProcessError:
                return

    server = part2().make_server(ADDRESS, app)
    answer = server.handle_one_request

    def handle_one_request():
        if os.fork() == 0:
            server.listen_socket.close()
            answer()
            os._exit(0)
        server.client_fd.close()

    server.handle_one_request = handle_one_request
    signal.signal(signal.SIGCHLD, handle_exit)
    server.serve_forever()


def part2_prefork(app):
    """Three workers in accept() on one listening socket."""
    server = part2().make_server(ADDRESS, app)
    for _ in range(3):
        if os.fork() == 0:
            server.serve_forever()
    while True:
        os.wait()


def part2_many(app):
    """The same with 50 workers."""
    server = part2().make_server(ADDRESS, app)
    server.listen_socket.listen(128)
    for _ in range(50):
        if os.fork() == 0:
            server.serve_forever()
    while True:
        os.wait()


def part2_orphans(app):
    """The same, but the parent ends once it has forked them."""
    server = part2().make_server(ADDRESS, app)
    for _ in range(3):
        if os.fork() == 0:
            server.serve_forever()
    os._exit(0)


def part2_graceful(app, end=None):
    """Two workers, which are replaced at SIGHUP; at SIGTERM each ends when it has answered its client."""
    server, end = part2().make_server(ADDRESS, app), end or end_and_wait
    workers = fork_workers(server)
    while next_signal() == signal.SIGHUP:
        old, workers = workers, fork_workers(server)
        end(old, signal.SIGTERM)
    end(workers, signal.SIGTERM)


def part2_grace(app):
    """The same, but a worker has five seconds to end, and its parent looks all the time whether it has."""
    global GRACE
    GRACE = 5
    part2_graceful(app, end_and_look)


def part2_reopens(app):
    """Two workers, which are killed at SIGHUP and SIGTERM; the new ones listen on a socket of their own."""
    while True:
        server = part2().make_server(ADDRESS, app)
        workers = fork_workers(server)
        signum = next_signal()
        end_and_wait(workers, signal.SIGKILL)
        server.listen_socket.close()
        if signum == signal.SIGTERM:
            return


def next_signal():
    return signal.sigwait({signal.SIGHUP, signal.SIGTERM})


def fork_workers(server):
    """The pids of two workers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})
    workers = []
    while len(workers) < 2:
        workers.append(os.fork())
        if workers[-1] == 0:
            serve_until_sigterm(server)
    return workers


def serve_until_sigterm(server):
    told = []

    def handle_sigterm(signum, frame):
        told.append(signum)
        signal.setitimer(signal.ITIMER_REAL, GRACE)
    signal.signal(signal.SIGTERM, handle_sigterm)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    server.listen_socket.settimeout(0.05)
    while not told:
        with contextlib.suppress(TimeoutError):
            server.client_fd, server.client_addr = server.listen_socket.accept()
            server.client_fd.settimeout(10)
            server.handle_one_request()
    os._exit(0)


def end_and_wait(workers, signum):
    for pid in workers:
        os.kill(pid, signum)
    for pid in workers:
        os.waitpid(pid, 0)


def end_and_look(workers, signum):
    for pid in workers:
        os.kill(pid, signum)
    while workers:
        workers = [pid for pid in workers if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        time.sleep(0.0001)


def part2_threads(app):
    """A thread for each client; what belongs to a request is in a server object of its own."""
    serve_with_threads(part2().make_server(ADDRESS, app))


def serve_with_threads(listener):
    while True:
        client = copy.copy(listener)
        client.client_fd, client.client_addr = listener.listen_socket.accept()
        client.client_fd.settimeout(10)
        threading.Thread(target=client.handle_one_request, daemon=True).start()


def part2_one_timer(app):
    """Two workers with threads, and one timer for each worker: every call sets it anew, and stops it."""
    seconds, listener = float(os.environ.get('APP_TIMEOUT', 30)), part2().make_server(ADDRESS, app)

    def timed(environ, start_response):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return app(environ, start_response)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    listener.set_app(timed)
    for _ in range(2):
        fork_worker(listener)
    while os.wait():
        fork_worker(listener)


def fork_worker(listener):
    if os.fork() == 0:
        serve_with_threads(listener)


def wsgiref_forks(app):
    """A child for each client, but no more than 40 at a time."""
    from wsgiref.simple_server import WSGIServer, make_server

    class Server(socketserver.ForkingMixIn, WSGIServer):
        request_queue_size = 128
    make_server(*ADDRESS, app, Server).serve_forever()


if __name__ == '__main__':
    name, path = sys.argv[1:]
    module, _, attribute = path.partition(':')
    globals()[name](getattr(importlib.import_module(module), attribute))
