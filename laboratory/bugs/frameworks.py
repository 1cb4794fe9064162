"""runs plain WSGI, Flask, Pyramid and Django"""
from laboratory.instruments.client import get
from laboratory.instruments.experiment import Case, about, bug, passed
from laboratory.instruments.views import exchange


def experiment(server, step):
    response = get(server, '/hello')
    step('A client asks for /hello', exchange)
    if response.status == 200 and response.body.startswith(b'Hello world from '):
        return passed(response.body.decode().strip())
    return bug('no_hello', f'there is no hello in the answer: {response}')


CASES = {
    'no_hello': Case(
        'does not run every framework', 'curl -i localhost:8888/hello',
        r'\A(?!(?s:.*)Hello world from Flask!)',
        'You see no "Hello world from Flask!", and your server prints what Flask is missing: most often a '
        'variable that PEP 3333 requires in the environ. Try pyramidapp:app and djangoapp:app too.',
        """
        Each of wsgiapp:app, flaskapp:app, pyramidapp:app and djangoapp:app has to answer this:
        {see}
        If yours doesn't, it may have printed why. The frameworks need .venv/bin/python.

        A framework relies on PEP 3333: on variables in the environ, a start_response that it can call, and a
        server that goes through any iterable. The stage that you began with has all. What have you changed?

        Compare get_environ() with "environ Variables" in PEP 3333. wsgi.input is a file of bytes, and
        SERVER_PORT is text: str(8888). Then see that finish_response() sends all of the result.""",
        app='flaskapp:app'),
}
BUG = about(
    globals(), apps=('wsgiapp:app', 'flaskapp:app', 'pyramidapp:app', 'djangoapp:app'),
    predict='Flask, Pyramid and Django know nothing of this server. Does it run all three?',
    why='a framework asks of a server only what PEP 3333 promises, and that is the same for all of them.')
