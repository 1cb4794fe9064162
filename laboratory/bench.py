"""Measures how fast the stages of parts 3 and 4 are, and servers that many people use (Linux).

    make bench              takes twenty minutes
    make bench QUICK=1      a few of the servers, in a minute

    WORKERS=2       how many workers each server has, if it has workers
    ONLY='part4 granian'            the servers whose names begin with one of these words
    SERVER='python3 my_server.py'   your own server as well, with its port in PORT and in place of {port};
                    {app} stands for the application that the others run
    WRITE=1         writes the tables into part4/README.md, and the chart into pictures/

All servers are measured in turn, then all of them again, and the tables show the medians. Do nothing
else on the machine meanwhile. In the column slow, every 50th call of the application takes 20 ms more.
"""
import os
import platform
import re
import statistics
import sys
from pathlib import Path

from rich.table import Table

from common import settings
from common.stages import ROOT, all_stages, steps_of
from laboratory.instruments import load, servers
from laboratory.instruments.pages import chart, filled, markdown, short
from laboratory.instruments.process import ServerFailed
from laboratory.instruments.terminal import console, run

ROUNDS, SECONDS = 3, 3  # how often a server is measured, and how long with each kind of load
WARM_UP = 1  # seconds
CONNECTS_AGAIN = 'closes each connection, so its clients connect again, as in the first table'
TITLES = {False: 'New connections', True: 'Kept connections'}  # whether a connection is kept
KINDS = [(kept, name) for kept in TITLES for name in load.LOADS]
HEADS = ['rate, ×', 'CPU, µs', 'p99, ms']
COLUMNS = ['server', *HEADS, *(f'{head}, browser' for head in HEADS), 'rate, ×, slow', 'memory, MB']
SUPERSCRIPT = str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹')
STAGE, FOREIGN = '#3f8fd9', '#b8863b'  # colours of bars
COLOURS = {servers.LIMIT: '#8b7fd6', servers.YOURS: '#c2708f'}
PAGE, PICTURE = ROOT / 'part4/README.md', ROOT / 'pictures/bench.svg'


def chosen(everyone, quick, only):
    """Those of the servers that QUICK and ONLY leave, and the one that they are compared to."""
    if quick and not only:
        only = ['part4-v1.2', steps_of('part4')[-1].name, servers.LIMIT]
    left = [server for server in everyone if server.name.startswith(tuple(only or ['']))]
    if not left:
        sys.exit(f'ONLY={" ".join(only)}: no server has such a name; '
                 f'there are {", ".join(server.name for server in everyone)}')
    return [server for server in everyone if server in left or server.name in (servers.BASE, servers.YOURS)]


def measured(server, workers, seconds):
    """Start a Server, measure it with each kind of load for so many seconds, end it.

    returns   {(kept, name): Figures}: whether connections are kept, and the name of the load
    """
    with server.start(workers) as process:
        keeps, found = load.keeps_connections(process), {}
        load.put_load(process, False, 'browser', WARM_UP)
        for kept, name in KINDS:
            if name == load.SLOW and not server.runs_app:
                continue
            if kept and not keeps:
                found[kept, name] = found[False, name]._replace(remark=CONNECTS_AGAIN)
            else:
                found[kept, name] = load.put_load(process, kept, name, seconds)
    return found


def medians(turns):
    """The medians of what measured() has returned several times, in the same form; {} for no times."""
    def median(figures):
        *numbers, remarks = zip(*figures, strict=True)
        return load.Figures(*map(statistics.median, numbers), next(filter(None, remarks), ''))
    return {kind: median([turn[kind] for turn in turns]) for kind in turns[0]} if turns else {}


def rounds(everyone, workers, number, seconds):
    """Measure all servers, then all again.

    returns   {name: list of what measured() returns}, {name: why it could not be measured}
    """
    found = {server.name: [] for server in everyone}
    failed = {name: why for name, why in servers.UNMEASURED.items() if name in found}
    for turn in range(1, number + 1):
        for server in [server for server in everyone if server.name not in failed]:
            try:
                with console.status(f'round {turn} of {number}: {server.name}'):
                    figures = measured(server, workers, seconds)
            except (ServerFailed, load.LoadFailed, OSError) as error:
                failed[server.name] = reason(error)
                if server.name in (servers.YOURS, servers.BASE):
                    sys.exit(f'{server.name} cannot be measured: it {reason(error)}')
            else:
                found[server.name].append(figures)
                new, kept = figures[False, ''].rate, figures[True, ''].rate
                line = f'{turn}/{number}  {server.name:<20}{new:>8.0f}/s new{kept:>8.0f}/s kept'
                console.print(line, style='dim')
    return found, failed


def reason(error):
    """Why a server cannot be measured, in one line."""
    return ': '.join([error.what, *error.printed[-1:]]) if isinstance(error, ServerFailed) else str(error)


def ratio(figures, name, kind):
    """The requests a second of a server, for each one of the server that it is compared to."""
    return figures[name][kind].rate / figures[servers.BASE][kind].rate


def cells_of(figures, name, kind):
    """What a table tells of a server under that load; for slow calls there is room for the rate alone."""
    if kind in figures[name]:
        of = figures[name][kind]
        cells = [short(ratio(figures, name, kind)), f'{of.cpu:.0f}', short(of.p99)]
    else:
        cells = ['-'] * len(HEADS)
    return cells[:1] if kind[1] == load.SLOW else cells


def tables(figures, failed):
    """Both tables as [(title, rows)], with rows of texts, and what is to be said below them, as lines.

    figures   {name: what medians() returns}
    """
    found, remarks = [], []
    for kept, title in TITLES.items():
        kinds, rows = [kind for kind in KINDS if kind[0] == kept], []
        plain, browser, slow = (figures[servers.BASE][kind].rate for kind in kinds)
        title += (f": 1.00 is {plain:.0f} requests/s, {browser:.0f} with a browser's headers, "
                  f'{slow:.0f} with slow calls ({servers.BASE})')
        for name, of in figures.items():
            those = [of[kind] for kind in kinds if kind in of]
            said = dict.fromkeys(filter(None, [failed.get(name), *(each.remark for each in those)]))
            remarks += [remark for remark in said if remark not in remarks]
            marks = ' '.join(str(remarks.index(remark) + 1) for remark in said)
            cells = [f'{name} {marks.translate(SUPERSCRIPT)}'.strip()]
            for kind in kinds:
                cells += cells_of(figures, name, kind)
            memory = f'{max(each.memory for each in those) / 1e6:.0f}' if those else '-'
            rows.append([*cells, memory])
        found.append((title, rows))
    return found, [f'{number}. {remark}' for number, remark in enumerate(remarks, 1)]


def machine(workers, number, seconds):
    """What the figures hold for, as a paragraph."""
    model = re.search('model name\\s*: (.+)', Path('/proc/cpuinfo').read_text())
    return (f'Measured on {model[1] if model else platform.machine()}, {os.cpu_count()} cores, '
            f'Linux {platform.release()}, with {workers} workers and {load.CLIENTS} clients at a time, '
            f'{number} × {seconds} s for each figure. {", ".join(servers.versions())}.')


def show(figures, failed, about):
    """Print both tables, and what is to be said of them."""
    found, notes = tables(figures, failed)
    for title, rows in found:
        shown = Table(COLUMNS[0], box=None, pad_edge=False, header_style='bold')
        for column in COLUMNS[1:]:
            shown.add_column(column.replace(', ', '\n'), justify='right')
        for row in rows:
            shown.add_row(*row)
        console.print(f'\n{title}\n')
        console.print(shown)
    console.print('', *notes, '', about, sep='\n', markup=False)


def page(figures, failed, about):
    """The same in Markdown, with the chart."""
    found, notes = tables(figures, failed)
    parts = [f'![requests a second, compared to {servers.BASE}](../pictures/{PICTURE.name})']
    for title, rows in found:
        parts += [f'**{title}**', markdown(COLUMNS, rows).strip()]
    return '\n\n'.join(filter(None, [*parts, '\n'.join(notes), about])) + '\n'


def picture(figures):
    """The chart of short requests, as SVG."""
    names, stages = [name for name in figures if figures[name]], [stage.name for stage in all_stages()]
    rows = [(name, STAGE if name in stages else COLOURS.get(name, FOREIGN)) for name in names]
    return chart(f'Requests a second, compared to {servers.BASE}', rows, {
        title: [ratio(figures, name, (kept, '')) for name in names] for kept, title in TITLES.items()})


def main():
    workers = int(settings.positive('WORKERS', 2, whole=True))
    quick, write = settings.choice('QUICK', '0', '1') == '1', settings.choice('WRITE', '0', '1') == '1'
    own, only = os.environ.get('SERVER'), os.environ.get('ONLY', '').split()
    number, seconds = (1, 1) if quick else (ROUNDS, SECONDS)
    load.need_tools()
    with servers.limit() as limit:
        everyone = [*servers.stages(), *servers.foreign(), *limit]
        if own:
            everyone.insert(0, servers.Server(servers.YOURS, ['sh', '-c', own]))
        found, failed = rounds(chosen(everyone, quick, only), workers, number, seconds)
    figures = {name: medians(turns) for name, turns in found.items()}
    about = machine(workers, number, seconds)
    show(figures, failed, about)
    if write:
        PAGE.write_text(filled(PAGE.read_text(), 'bench', page(figures, failed, about)))
        PICTURE.write_text(picture(figures))


if __name__ == '__main__':
    run(main)
