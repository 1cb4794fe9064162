"""Draws what the commands show, as pictures/*.svg, for those who only read."""
import argparse
import io
import sys

from common import stages
from laboratory import matrix, scenes
from laboratory.experiments import tables
from laboratory.instruments.client import connect, exchange
from laboratory.instruments.process import stage_server
from laboratory.instruments.terminal import console, run
from laboratory.trace import trace
from laboratory.watch import Watch

FOLDER = stages.ROOT / 'pictures'
WIDTH, HEIGHT = 80, 24  # characters


def show_matrix():
    for part in tables.EXPERIMENTS:
        console.print(matrix.table(part, tables.expected(part)))


def show_bug():
    scenes.tell(scenes.SCENES['lost-signal'])


def show_watch():
    """One moment: two clients have been answered, a third one is silent."""
    with stage_server(stages.find_stage('part3-v1.1')) as server:
        seen = Watch(server.pid, server.port)
        for _ in range(2):
            seen.look()
            exchange(server)
            server.let_rest()
        seen.look()
        with connect(server):
            server.let_rest()
            seen.look()
            console.print(seen.screen(HEIGHT))


def show_trace():
    stage = stages.find_stage('part3-v1.2')
    trace([sys.executable, stage.server], {'PORT': '0'}, True, 'Python retries, PEP 475')


PICTURES = {
    'matrix': ('make matrix', show_matrix),
    'bug-lost-signal': ('make bug-lost-signal', show_bug),
    'watch': ('make watch', show_watch),
    'trace': ('make trace-part3-v1.2', show_trace),
}


def main():
    argparse.ArgumentParser(prog='make pictures', description=__doc__).parse_args()
    FOLDER.mkdir(exist_ok=True)
    console.record, console.file, console.width = True, io.StringIO(), WIDTH
    for name, (title, show) in PICTURES.items():
        print(f'pictures/{name}.svg', flush=True)
        show()
        console.save_svg(str(FOLDER / f'{name}.svg'), title=title, unique_id=name)


if __name__ == '__main__':
    run(main)
