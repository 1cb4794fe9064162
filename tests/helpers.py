"""What several test modules share: which stages have a property, and looks at their workers."""
import psutil

from common.stages import ROOT
from laboratory.bugs import known_stages
from laboratory.instruments import kernel
from laboratory.instruments.client import connect, request

GET = request('GET', '/')
CHUNKED = 'Transfer-Encoding: chunked'


def sending(server, data):
    """A connection over which these bytes have been sent."""
    client = connect(server)
    client.sendall(data)
    return client


def names(part):
    return [stage.name for stage in known_stages(part)]


def ends(stages):
    """The first and the last of the stages that have a property: see STEPS in test_stages.py."""
    return [stages[0], stages[-1]]


def protocols():
    """Of the stages with the same protocol.py the first one: {its name: its path}; v1.0 has none."""
    texts = {}
    for stage in known_stages('part4'):
        path = ROOT / stage.folder / 'protocol.py'
        texts.setdefault(path.read_text() if path.exists() else '', (stage.name, path))
    return dict(texts.values())


def workers(server):
    """The pids of its children, once they have come to rest."""
    server.let_rest()
    return kernel.children(server.pid)


def left(temporary):
    """The processes that run with that folder for their temporary files, and what is in it."""
    running = [pid for pid in psutil.pids()
               if kernel.variable(pid, 'TMPDIR') == str(temporary) and kernel.alive(pid)]
    return [*running, *temporary.iterdir()]
