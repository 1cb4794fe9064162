def app(environ, start_response):
    """A bare WSGI application: no framework, only PEP 3333."""
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'Hello world from a simple WSGI application!\n']
