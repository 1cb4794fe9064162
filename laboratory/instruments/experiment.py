"""What a bug is, and how its experiment is run on a server.

An experiment is a function that is given a running server (a ServerProcess) of which it knows nothing
else, and returns a Result. It acts as the clients, and looks at the processes through the kernel.
It calls step() with a few words and a view at the moments that are worth a look.
"""
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import cleandoc
from typing import NamedTuple

from common.stages import Stage
from laboratory.instruments import kernel
from laboratory.instruments.client import one_request
from laboratory.instruments.output import NO_FRAMEWORK, RAISED, last_error, last_lines, printable
from laboratory.instruments.process import ServerFailed

PASS, BUG = 'pass', 'bug'
NO_CHILD, NO_HANDLER, NO_WORKER = 'no child', 'no handler', 'no worker'  # the experiment does not apply
NOT_TESTED = 'not tested'  # this server gives no occasion to see it
NO_ANSWER, ERROR, ENDED = 'no answer', 'error', 'ended'
WORDLESS = 'wordless'  # an end without an error that was printed, or a signal
UNJUDGED = [ENDED, ERROR, NO_ANSWER]  # mend that first
FROM_BAD_TO_GOOD = [*UNJUDGED, BUG, NOT_TESTED, NO_HANDLER, NO_CHILD, NO_WORKER, PASS]
CAUSES = {  # the bugs that end a server with such an error or signal
    'EINTR': 'eintr', **dict.fromkeys(['SIGPIPE', 'EPIPE', 'ECONNRESET'], 'leaving_client')}
TIME_TO_END = 5  # seconds in which a server that is about to end has ended


class Result(NamedTuple):
    """What an experiment has found."""
    outcome: str  # one of those above
    case: str = ''  # which of the cases of its bug
    detail: str = ''  # what was seen, in a sentence
    others: tuple = ()  # what else is wrong, in a sentence each
    left: str = ''  # how many of all that was asked are wrong, and the names of the others
    steps: tuple = ()  # of (words, what was seen at that moment)
    printed: list | None = None  # the last lines that the server has printed; None: measure() looks
    cause: str = ''  # of an end: the name of the bug behind it, or WORDLESS
    see: str = ''  # a command that shows it, where it is not that of its case

    @property
    def is_bad(self):
        """Whether there is something to mend: an experiment that does not apply has found nothing."""
        return self.outcome in (BUG, *UNJUDGED)


def passed(detail):
    return Result(PASS, detail=detail)


def bug(case, detail):
    """The Result of a server that has the bug; case is one of CASES of its file."""
    return Result(BUG, case, detail)


class NoAnswer(Exception):
    """A server that lives, and does not answer where every server would."""


class Case(NamedTuple):
    """One way in which a bug shows, and what to tell somebody whose server has it.

    In see {pid} stands for the process that a reader would send a signal to, and {pids} for all that
    listen. It is typed in the top folder, while the server runs on port 8888 in another terminal. In a
    hint, a line {see} stands for it.
    """
    yours: str  # what such a server does, after 'Yours'
    see: str  # a command that shows it
    shows: str  # a pattern for what it prints then, '' where that takes too long for a test
    look_for: str  # what that means: 'You see ...'
    hints: str = ''  # three paragraphs: where to look, the idea, the place; none: those of the first case
    cured_by: str | None = None  # a stage, where it is not the one of expected.txt; '' for no stage
    app: str = ''  # that the server should run, where it is not the one of the experiment


def ended(server, result):
    """The Result of a server that has ended unasked, whatever was about to be concluded."""
    status, printed = server.exit_status(), server.output()
    if name := 'SIGPIPE' if 'SIGPIPE' in status else last_error(printed):
        return Result(ENDED, detail=f'{name} has ended the server', cause=CAUSES.get(name, ''))
    if raised := RAISED.findall(printed):
        return Result(ENDED, detail=f'the server has ended{status}: {printable(raised[-1])}')
    told = f'the server has ended{status}' + ', in a panic' * ('panic' in printed)
    return Result(ENDED, detail=told, cause=WORDLESS * (server.returncode() in range(128)))  # by no signal


def its_own_end(server, result):
    """The same where an end can be what the experiment is about: a bug that it has found stands."""
    return result if result.outcome == BUG else ended(server, result)


def asked_to_end(server, result):
    """The same where the experiment itself ends the server."""
    return result


@dataclass(frozen=True, eq=False)
class Bug:
    """All that is said of a bug; each is the BUG of its own file, whose docstring is what it asks."""
    name: str
    asks: str  # what a server without the bug does: 'reaps a child that has ended'
    experiment: Callable  # experiment(server, step) returns a Result
    cases: dict  # {name: Case}, the usual one first
    predict: str  # what to ask the reader before
    why: str  # after the cure was seen
    witness: str = ''  # what tells the bug in the detail, at the stage that has it
    apps: tuple = (None,)  # applications, each of them for a server of its own; None for none
    pep475: str = 'on'  # 'off' for the accept() of Python 2
    env: dict = field(default_factory=dict)  # more variables for the server
    when_ended: Callable = ended  # makes a Result of the end of a server, as ended() does
    scene: Callable = one_request  # scene(server): what the clients do for a trace

    def case(self, result):
        """The Case of a Result; the usual one where it has none of its own."""
        return self.cases.get(result.case) or next(iter(self.cases.values()))

    def hints(self, result):
        """The three hints for a Result."""
        told = self.case(result).hints or next(iter(self.cases.values())).hints
        return cleandoc(told).split('\n\n')


def about(module, **fields):
    """The Bug of a file; module is its globals()."""
    name, asks = module['__name__'].rpartition('.')[2], module['__doc__'].splitlines()[0]
    return Bug(name, asks, module['experiment'], module['CASES'], **fields)


class Lesson(NamedTuple):
    """What the reader's server should do when it is like that stage."""
    before: Stage
    stage: Stage
    bugs: list  # whose experiments it must pass now
    earlier: list  # whose experiments it should have passed before, and must pass still


def measure(bug, start, show=lambda words, seen: None):
    """Run an experiment on a server; return the Result, the worst of those on several applications.

    start     starts the server as the experiment asks: start(app, pep475, env) gives a ServerProcess
    show      is called with each step when it comes: its words, and what was seen
    raises    ServerFailed where a server without an application does not start, or breaks its bounds
    """
    results = {app: measure_with(app, bug, start, show) for app in bug.apps}
    app, worst = min(results.items(), key=lambda item: FROM_BAD_TO_GOOD.index(item[1].outcome))
    if len(bug.apps) > 1 and worst.outcome != PASS:
        return worst._replace(detail=f'with {app}: {worst.detail}')
    return worst


def measure_with(app, bug, start, show):
    """Run an experiment on a server that runs that application (None in part 3)."""
    steps = []
    try:
        with start(app, bug.pep475, bug.env) as server:
            def step(words, view):
                if len(bug.apps) > 1:
                    words = f'with {app}: {words[0].lower()}{words[1:]}'
                steps.append((words, view(server)))
                show(*steps[-1])

            try:
                result = bug.experiment(server, step)
            except NoAnswer as silence:
                asleep = any(map(kernel.naps, server.listened))
                result = Result(NO_ANSWER, detail=str(silence) + '; the server sleeps' * asleep)
            except (OSError, ValueError) as error:
                result = Result(ERROR, detail=f'the experiment has failed: {type(error).__name__}: {error}')
            server.let_rest(most=TIME_TO_END)  # it may be about to end
            output = server.output()
            if server.has_ended():
                result = bug.when_ended(server, result)
    except ServerFailed as failed:
        if app is None or failed.broken:
            raise
        output = '\n'.join(failed.printed)
        result = Result(ENDED, detail=f'it {failed.what}', printed=failed.printed)
    missing = NO_FRAMEWORK.search(output)
    if app and missing and result.outcome != PASS:
        result = Result(NOT_TESTED, detail=f'the Python of this server has no {missing[1]}')
    printed = last_lines(output) if result.printed is None else result.printed
    return result._replace(steps=tuple(steps), printed=printed)
