"""passes wsgiref.validate"""
from laboratory.instruments.client import fetch, request
from laboratory.instruments.experiment import Case, about, bug, its_own_end, passed
from laboratory.instruments.views import exchange
from laboratory.instruments.wsgi import noted


def experiment(server, step):
    for data in request('GET', '/'), request('POST', '/', 'Content-Type: text/plain', body=b'x'):
        before = noted(server, 'closed')
        reply = fetch(server, data)
        step('wsgiref.validate stands between the server and its application, and checks both', exchange)
        if complaints := noted(server, 'complaints'):
            return bug('complaint', f'wsgiref.validate complains: {complaints[0]}')
        if reply.status != 200:
            return bug('complaint', f'{reply} instead of 200')
        if not server.wait_until(lambda before=before: noted(server, 'closed') != before):
            return bug('no_close', 'wsgiref.validate complains: close() was not called')
    return passed('wsgiref.validate accepts GET and POST')


CASES = {
    'no_close': Case(
        'fails wsgiref.validate', 'curl -i -m 2 localhost:8888', r'GET /(?!(?s:.*)was called)',
        'You see that your server does not print "close() was called": PEP 3333 wants close() to be called '
        'at the end of each request.',
        """
        wsgiref.validate stands between your server and the application, and watches both sides:
        {see}
        Your server should print "close() was called", and no complaint.

        What the application returns may hold something open, such as a file. Only the server knows when the
        response is over, so it has to tell the application, whether all went well or not.

        In finish_response(), in a finally around the loop over result: if hasattr(result, 'close'), call
        result.close(). For another complaint, look for its words in wsgiref/validate.py of your Python."""),
    'complaint': Case(
        'fails wsgiref.validate', 'curl -i -m 2 localhost:8888; curl -i -m 2 -d x localhost:8888', '',
        'You see a status other than 200, or your server prints a complaint of wsgiref.validate.'),
}
BUG = about(
    globals(), apps=('wsgi_probes:checked',), when_ended=its_own_end,
    witness='wsgiref.validate complains: close() was not called',
    predict='An application returns an open file as its body. Who closes the file?',
    why='only the server knows when a response is over, so it calls close() of what the application returns.')
