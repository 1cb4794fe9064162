"""The course of `make learn`: the lessons of a part, and what a lesson finds in the reader's server."""
from functools import partial
from typing import NamedTuple

from common.stages import Stage, stages_of
from laboratory.experiments.scenes import SCENES
from laboratory.experiments.tables import at_once, cure, questions
from laboratory.experiments.verdicts import BUG, NO_VERDICT, Verdict, measure
from laboratory.instruments import views


class Task(NamedTuple):
    """A lesson: what the reader's server should do when it is like that stage."""
    stage: Stage
    experiments: list  # which it must pass now
    earlier: list  # which it should have passed before, and must pass still


class Finding(NamedTuple):
    """What an experiment has found."""
    experiment: object
    verdict: Verdict
    moments: list  # of (what was done, what the kernel showed then)

    @property
    def is_bad(self):
        """Whether there is something to mend: a question that does not arise is none."""
        return self.verdict.outcome in (BUG, *NO_VERDICT)


def tasks(part):
    """The lessons of a part in their order. A stage that cures no bug is no lesson."""
    stages = stages_of(part)
    cures = {experiment: cure(experiment.__name__, stages) for experiment in questions(part)}
    earlier = [experiment for experiment, stage in cures.items() if stage not in stages]
    found = []
    for stage in stages:
        if experiments := [experiment for experiment in cures if cures[experiment] == stage]:
            found.append(Task(stage, experiments, earlier))
            earlier = [*experiments, *earlier]
    return found


def scene_of(experiment, stage):
    """The name of the scene that shows this experiment, or else the cure in that stage; None for none."""
    about = [name for name, scene in SCENES.items() if scene.experiment is experiment]
    about += [name for name, scene in SCENES.items() if scene.stage == stage.name]
    return next(iter(about), None)


def view_of(experiment):
    """The name of the view of the kernel that shows what the experiment is about."""
    shown = [scene.view for scene in SCENES.values() if scene.experiment is experiment]
    return next(iter(shown), 'processes')


def find(experiment, start):
    """Run an experiment; return the Finding. start is as in measure(). Raises ServerFailed."""
    moments, server = [], None

    def begin(*settings):
        nonlocal server
        moments.clear()  # those with the application before
        server = start(*settings)
        return server

    def note(moment):
        moments.append((moment, views.VIEWS[view_of(experiment)](server)))
    return Finding(experiment, measure(experiment, begin, note), moments)


def find_in_order(experiments, start, tell):
    """Run them until one finds something bad; return the Findings. tell is called with each of them."""
    findings = []
    for experiment in experiments:
        tell(experiment)
        findings.append(find(experiment, start))
        if findings[-1].is_bad:
            break
    return findings


def find_at_once(experiments, start):
    """Run all of them, several at the same time; return the Findings in that order, to the first bad one."""
    findings = at_once([partial(find, experiment, start) for experiment in experiments])
    bad = [number for number, finding in enumerate(findings) if finding.is_bad]
    return findings[:bad[0] + 1] if bad else findings
