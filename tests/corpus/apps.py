"""One greeting, in three languages: WSGI, ASGI, and serve() of servers that are started by a program."""
import os
import sys

ADDRESS = HOST, PORT = '127.0.0.1', int(os.environ['PORT'])
BODY = b'Hello, World!\n'


def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(BODY)))])
    return [BODY]


async def asgi(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200,
                    'headers': [(b'content-length', str(len(BODY)).encode())]})
        await send({'type': 'http.response.body', 'body': BODY})


def serve(name):
    if name == 'cheroot':
        from cheroot.wsgi import Server
        Server(ADDRESS, app).start()
    elif name == 'werkzeug-threads':
        from werkzeug.serving import run_simple
        run_simple(HOST, PORT, app, threaded=True)
    elif name == 'werkzeug-processes':
        from werkzeug.serving import run_simple
        run_simple(HOST, PORT, app, processes=4)
    elif name == 'gevent':
        from gevent.pywsgi import WSGIServer
        WSGIServer(ADDRESS, app).serve_forever()
    elif name == 'eventlet':
        import eventlet
        from eventlet import wsgi
        wsgi.server(eventlet.listen(ADDRESS), app)
    elif name == 'twisted':
        from twisted.internet import reactor
        from twisted.web import server, wsgi
        reactor.listenTCP(PORT, server.Site(wsgi.WSGIResource(reactor, reactor.getThreadPool(), app)))
        reactor.run()
    elif name == 'tornado':
        import asyncio

        from tornado.httpserver import HTTPServer
        from tornado.wsgi import WSGIContainer

        async def run():
            HTTPServer(WSGIContainer(app)).listen(PORT, HOST)
            await asyncio.Event().wait()
        asyncio.run(run())
    elif name == 'aiohttp':
        from aiohttp import web

        async def hello(request):
            return web.Response(body=BODY)
        application = web.Application()
        application.router.add_get('/hello', hello)
        web.run_app(application, host=HOST, port=PORT)


if __name__ == '__main__':
    serve(sys.argv[1])
