"""Draws what the commands show, as pictures/*.svg, for those who only read.

The picture of a replay is what Chromium shows: pictures/replay.png.
"""
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from common import stages
from laboratory.instruments.client import REQUEST, connect, fetch
from laboratory.instruments.process import stage_server
from laboratory.instruments.terminal import run
from laboratory.instruments.views import Watch

FOLDER = stages.ROOT / 'pictures'
WIDTH, HEIGHT = 96, 24  # characters
REPLAY = 'replays/part3-final-lost-signal.html#83'  # a SIGCHLD that adds nothing


def shown_by(command, status=0, **env):
    """What a command prints on a terminal, without what it rubs out again; it ends with that exit status."""
    env = {**os.environ, 'FORCE_COLOR': '1', 'COLUMNS': str(WIDTH), 'TERM': 'xterm', **env}
    ran = subprocess.run([sys.executable, '-m', *f'laboratory.{command}'.split()], cwd=stages.ROOT, env=env,
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    if ran.returncode != status:
        sys.exit(f'laboratory.{command} has ended with exit status {ran.returncode}')
    rubbed_out = r'.*(\n(\x1b\[\?25h)?\r\x1b\[1A)?\x1b\[2K'
    return Text.from_ansi(re.sub(rubbed_out, '', ran.stdout.decode()).rstrip())


def watching():
    """One moment of watch: two clients have been answered, a third one is silent."""
    with stage_server(stages.find_stage('part3-v1.1')) as server:
        seen = Watch(server.pid, server.port)
        for _ in range(2):
            seen.look()
            fetch(server, REQUEST)
            server.let_rest()
        seen.look()
        with connect(server):
            server.let_rest()
            seen.look()
            return seen.screen(HEIGHT)


def photograph():
    """The replay in Chromium, as pictures/replay.png."""
    chromium = shutil.which('chromium')
    if not chromium:
        sys.exit('pictures/replay.png needs chromium: on Debian and Ubuntu, apt install chromium')
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        picture = Path(folder) / 'replay.png'
        file, step = REPLAY.split('#')
        subprocess.run([
            chromium, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
            '--window-size=1280,860', f'--user-data-dir={folder}', f'--screenshot={picture}',
            f'{(stages.ROOT / file).as_uri()}#{step}',
        ], env={**os.environ, 'TMPDIR': folder}, stderr=subprocess.DEVNULL)
        if not picture.exists():
            sys.exit('chromium has made no picture')
        (FOLDER / 'replay.png').write_bytes(picture.read_bytes())


PICTURES = {
    'bug-lost-signal': ('make bug-lost-signal', lambda: shown_by('bug lost-signal')),
    'learn-fails': ('make learn', lambda: shown_by('learn', 1, SERVER='python3 part3/v1.1/server.py')),
    'learn-passes': ('make learn', lambda: shown_by('learn', SERVER='python3 part3/final/server.py')),
    'watch': ('make watch', watching),
    'trace': ('make trace-part3-v1.2', lambda: shown_by('trace part3-v1.2')),
}


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, (title, show) in PICTURES.items():
        print(f'pictures/{name}.svg', flush=True)
        paper = Console(record=True, file=io.StringIO(), width=WIDTH, force_terminal=True, highlight=False)
        paper.print(show())
        paper.save_svg(str(FOLDER / f'{name}.svg'), title=title, unique_id=name)
    print('pictures/replay.png', flush=True)
    photograph()


if __name__ == '__main__':
    run(main)
