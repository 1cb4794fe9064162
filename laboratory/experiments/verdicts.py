"""What an experiment finds, and how it is run on a server.

An experiment is a function that is given a running server (a ServerProcess) of which it knows
nothing else. It acts as the clients, looks at the processes through the kernel, and returns a
Verdict. The first line of its docstring is the question that it answers.

It calls tell() with a few words at the moments that matter, for those who want to look then.
"""
import errno
import re
from functools import partial
from typing import NamedTuple

from laboratory.instruments.process import ServerFailed, last_lines

PASS, BUG = 'pass', 'bug'
NO_CHILD, NO_HANDLER, NO_WORKER = 'no child', 'no handler', 'no worker'  # the question does not arise
NOT_TESTED = 'not tested'  # this server gives no occasion to see it
NO_ANSWER, ERROR, ENDED = 'no answer', 'error', 'ended'
NO_VERDICT = [ENDED, ERROR, NO_ANSWER]  # fix that first
FROM_BAD_TO_GOOD = [*NO_VERDICT, BUG, NOT_TESTED, NO_HANDLER, NO_CHILD, NO_WORKER, PASS]
RAISED = re.compile(r'^[\w.]*(?:Error|Exception|error|Exit|Interrupt)\b.*', re.MULTILINE)  # ends a traceback
NO_FRAMEWORK = re.compile("No module named '(flask|pyramid|django)'")
SOON = 5  # seconds in which a server that is about to end has ended
FIRST = 'the first SIGCHLD ends the server'
BY_EINTR = 'EINTR has ended the server'
EINTR = re.compile(r'Errno 4\b|Interrupted system call|EINTR')


class Verdict(NamedTuple):
    outcome: str  # one of those above
    evidence: str  # what was seen
    printed: list | None = None  # the last lines that the server has printed


class NoAnswer(Exception):
    """A server that lives, and does not answer where every server would."""


def tell_nobody(*_):
    pass


class Setup(NamedTuple):
    """How measure() starts the server for an experiment, and what it makes of its end."""
    apps: list = [None]  # applications, each of them for a server of its own; None for none
    pep475: str = 'on'
    env: dict = {}
    judges_ends: bool = False  # an end can be what the experiment is about: its own bug stands then
    ends_it: bool = False  # the experiment itself ends the server


def started_with(**settings):
    """Mark an experiment with a Setup."""
    def mark(experiment):
        experiment.setup = Setup(**settings)
        return experiment
    return mark


def setup_of(experiment):
    return getattr(experiment, 'setup', Setup())


def measure(experiment, start, tell=tell_nobody):
    """Run an experiment on a server; return the Verdict, the worst of those on several applications.

    start     starts the server as the experiment asks: start(app, pep475, env) gives a ServerProcess
    tell      is called as tell(server, moment) whenever the experiment calls its own
    """
    apps = setup_of(experiment).apps
    verdicts = {app: measure_with(app, experiment, start, tell) for app in apps}
    app, worst = min(verdicts.items(), key=lambda item: FROM_BAD_TO_GOOD.index(item[1].outcome))
    if len(apps) > 1 and worst.outcome != PASS and not worst.evidence.startswith('with '):
        return worst._replace(evidence=f'with {app}: {worst.evidence}')
    return worst


def measure_with(app, experiment, start, tell):
    """Run an experiment on a server that runs that application (None in part 3)."""
    setup = setup_of(experiment)
    try:
        with start(app, setup.pep475, setup.env) as server:
            try:
                verdict = experiment(server, partial(tell, server))
            except NoAnswer as silence:
                verdict = Verdict(NO_ANSWER, str(silence))
            except (OSError, ValueError) as error:
                verdict = Verdict(ERROR, f'the experiment itself failed: {type(error).__name__}: {error}')
            server.let_rest(most=SOON)  # it may be about to end
            output = server.output()
            if server.has_ended() and not setup.ends_it:
                if not setup.judges_ends or verdict.outcome not in (BUG, PASS):
                    verdict = what_ended_means(experiment, server, verdict)
                elif verdict.outcome == PASS:
                    verdict = Verdict(BUG, 'the server ends after all questions')
    except ServerFailed as failed:
        if app is None or failed.broken:
            raise
        output = '\n'.join(failed.printed)
        verdict = Verdict(ENDED, f'with {app} it {failed.what}', failed.printed)
    if verdict.printed is None:
        verdict = verdict._replace(printed=last_lines(output))
    missing = NO_FRAMEWORK.search(output)
    if app and missing and verdict.outcome != PASS:
        evidence = f'with {app}: the Python of this server has no {missing[1]}'
        return verdict._replace(outcome=NOT_TESTED, evidence=evidence)
    return verdict


def what_ended_means(experiment, server, verdict):
    """A server that has ended passes nothing. In eintr(), EINTR or an end without an error is the bug."""
    eintr = shows_eintr(server)
    if experiment.__name__ == 'eintr':
        if eintr and verdict.outcome != BUG:
            return Verdict(BUG, FIRST)
        has_returned = server.returncode() == 0 and not RAISED.search(server.output())
        if eintr or has_returned and verdict.outcome == BUG:
            return verdict
    what = BY_EINTR if eintr else f'the server has ended{server.exit_status()}'
    return Verdict(ENDED, what)


def by_eintr(verdict):
    """Whether EINTR is what has ended the server."""
    return verdict.evidence.endswith(BY_EINTR)


def shows_eintr(server):
    """Whether the last error that the server printed is EINTR, or its exit status the number of it.

    ECHILD does not count: it is a child's, forked while the handler of its parent was due.
    """
    output = server.output()  # where the handler may have printed into the middle of the error
    raised = [match.start() for match in RAISED.finditer(output) if 'Errno 10]' not in match[0]]
    said = output[raised[-1]:] if raised else '\n'.join(last_lines(output, most=3))
    return bool(EINTR.search(said)) or server.returncode() == errno.EINTR
