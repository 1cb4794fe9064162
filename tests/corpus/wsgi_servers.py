"""Servers that have no command of their own: python wsgi_servers.py NAME module:callable, on PORT.

Those whose name begins with `part2` are part 2 final, made concurrent as the articles' exercise asks.
"""
import importlib
import importlib.util
import os
import signal
import socketserver
import sys
import threading
from pathlib import Path

ADDRESS = '127.0.0.1', int(os.environ['PORT'])
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


def part2_orphans(app):
    """The same, but the parent ends once it has forked them."""
    server = part2().make_server(ADDRESS, app)
    for _ in range(3):
        if os.fork() == 0:
            server.serve_forever()
    os._exit(0)


def part2_threads(app):
    """A thread for each client; what belongs to a request is in a server object of its own."""
    module = part2()
    listener = module.make_server(ADDRESS, app)

    class OneClient(module.WSGIServer):
        def __init__(self):
            vars(self).update(vars(listener))

    while True:
        client = OneClient()
        client.client_fd, client.client_addr = listener.listen_socket.accept()
        client.client_fd.settimeout(module.TIMEOUT)
        threading.Thread(target=client.handle_one_request, daemon=True).start()


if __name__ == '__main__':
    name, path = sys.argv[1:]
    module, _, attribute = path.partition(':')
    globals()[name](getattr(importlib.import_module(module), attribute))
