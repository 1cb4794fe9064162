"""How fast is a server, and what does a request cost it? Asked with four kinds of load."""
import statistics

from laboratory.instruments.load import BROWSER, Figures, keeps_connections, put_load

WARM_UP = 1  # seconds
KINDS = [(kept, browser) for kept in (False, True) for browser in (False, True)]
CONNECTS_AGAIN = 'closes each connection, so its clients connect again, as in the first table'


def measured(start, seconds):
    """Start a server, measure it with each kind of load for so many seconds, end it.

    start     makes its ServerProcess
    returns   {(kept, browser): Figures}: whether connections are kept, and requests have a browser's headers
    """
    with start() as server:
        keeps, found = keeps_connections(server), {}
        put_load(server, False, BROWSER, WARM_UP)
        for kept, browser in KINDS:
            if kept and not keeps:
                found[kept, browser] = found[False, browser]._replace(remark=CONNECTS_AGAIN)
            else:
                found[kept, browser] = put_load(server, kept, BROWSER if browser else {}, seconds)
    return found


def medians(turns):
    """The medians of what measured() has returned several times, in the same form; {} for no times."""
    def median(figures):
        *numbers, remarks = zip(*figures, strict=True)
        return Figures(*map(statistics.median, numbers), next(filter(None, remarks), ''))
    return {kind: median([turn[kind] for turn in turns]) for kind in KINDS} if turns else {}
