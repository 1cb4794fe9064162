"""What is said to a reader about a result: what was found, hints, commands as they are typed, diffs."""
import re

from rich.console import Group
from rich.table import Table
from rich.text import Text

from common.diff import COLOURS
from laboratory.instruments.experiment import BUG, PASS, UNJUDGED
from laboratory.instruments.output import RAISED, printable
from laboratory.instruments.own import start_line
from laboratory.instruments.terminal import STYLES, console

PIDS = 'python3 -m common.pid'  # of those that listen on PORT, the oldest first
WHICH_ACCEPT = ' (The folder in PYTHONPATH gives Python 3 the accept() of Python 2.)'
TO_FORK = 'To learn fork, let a child answer each client: make diff-part3-v1.1-fd-leak shows how.'
WHEN_IT_STOPS = [  # hints for a server that has ended, or does not answer
    'Look at the last lines that it printed. If there is a traceback, its last line names the error, and the '
    'lines above it name the place. If there is none, press t: you see the system calls of one request.',
    'An error in a child ends only the child. One in the first process, or in a signal handler that runs '
    'there, ends the server. Which process has failed, and at which client: the first one, or a later one?',
    "Put print('...', flush=True) before each line that can fail or wait, such as accept() and recv(); in a "
    "signal handler, os.write(1, b'...'). What is printed last shows how far the server has come.",
]


def said(result):
    """What was found, in one line."""
    return '; '.join(map(printable, filter(None, [result.detail, result.left])))


def compared(bug, prediction, result):
    """What a reader has predicted beside what was measured; whether it was right where that can be known."""
    *_, last = bug.predict.rstrip('?').split('. ')
    answer = re.match('(y|n)(es|o)?\\b', prediction.lower())
    usual = next(iter(bug.cases))
    if re.match('(Is|Are|Do|Does) (?!.* or )', last) and answer and (
            result.outcome == PASS or result.outcome == BUG and result.case in ('', usual)):
        is_right = (answer[1] == 'y') == (result.outcome == PASS)
        told = 'That is right.' if is_right else 'It is the other way round.'
        return f'You predicted: {prediction}. {told}'
    return f'You predicted: {prediction}. What happened: {said(result)}.'


def typed(see, port='8888'):
    """A command of a Case as it is typed for a server on that port."""
    pids = PIDS if port == '8888' else f'PORT={port} {PIDS}'
    see = see.replace('{pid}', f'$({pids} | head -1)').replace('{pids}', f'$({pids})')
    return see.replace('localhost:8888', f'localhost:{port}').replace('sport = :8888', f'sport = :{port}')


def to_see(bug, result, server, tried):
    """What a reader types to see a bug: the line that starts the server, a command; and what to look for.

    server    the command of the reader
    tried     what try_out() has found out about it
    """
    case, old_accept = bug.case(result), bug.pep475 == 'off' and tried.is_python3
    start = start_line(server, case.app or bug.apps[0] or '', 'off' if old_accept else 'on', tried.port)
    return start, typed(result.see or case.see, tried.port), case.look_for + WHICH_ACCEPT * old_accept


def as_text(hint, see):
    """A hint in one line, with its command, indented, where {see} stands."""
    before, has_command, after = hint.partition('{see}')
    lines = '\n'.join(f'    {line}' for line in see.splitlines())
    before, after = (' '.join(text.split()) for text in (before, after))
    return f'{before}\n{lines}\n{after}' if has_command else before


def shown(words, view=None):
    """A step of an experiment as a sentence, above what was seen then, if anything."""
    words = words[0].upper() + words[1:]
    is_empty = view is None or getattr(view, 'row_count', 1) == 0  # the table of a server that has ended
    return Text(f'{words}.') if is_empty else Group(Text(f'{words}:\n'), view)


def line(bug, result):
    return Text.assemble((result.outcome, STYLES.get(result.outcome, 'dim')), f'  {bug.asks}')


def tell_failure(bug, result):
    """Print what was done to a server, what was seen then, and what came of it."""
    console.print(line(bug, result))
    if bug.pep475 == 'off':
        console.print('     (in Python: with the accept() of Python 2, which fails when a signal comes)')
    for name, value in bug.env.items():
        console.print(f'     with {name}={value} in its environment, a number of seconds')
    if result.steps:
        *before, last = result.steps
        console.print('', *[shown(words) for words, _ in before], shown(*last), sep='\n')
    console.print(f'\nWhat happened: {said(result)}.', markup=False)
    raised = [number for number, text in enumerate(result.printed) if RAISED.match(text)]
    if raised or result.outcome in UNJUDGED:
        lines = result.printed[:raised[-1] + 1] if raised else result.printed
        print('It printed:' if lines else 'It printed nothing.', *lines, sep='\n')


def tell_success(bug, result):
    """Print that a server has no such bug, and which error it printed all the same."""
    console.print(line(bug, result))
    console.print(f'      {said(result)}', style='dim', markup=False)
    errors = [text for text in result.printed if RAISED.match(text)]
    if errors and bug.apps == (None,):  # elsewhere an application may be meant to fail
        console.print(Text(f'      Your server printed an error all the same: {errors[-1]}', 'yellow'))
    console.print()


def beside(diffs):
    """Diffs, as {title: lines}, side by side where there is room, else one below the other."""
    def coloured(line):
        return Text.from_ansi(COLOURS.get(line[:1], '') + printable(line.expandtabs(4))).append('\n')

    texts = [Text.assemble((f'{title}\n\n', 'bold'), *map(coloured, lines)) for title, lines in diffs.items()]
    widths = [max(map(len, text.plain.splitlines())) for text in texts]
    if sum(widths) + 3 > console.width:
        return Group(*texts)
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_row(*texts)
    return table
