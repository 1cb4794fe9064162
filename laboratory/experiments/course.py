"""The course of `make learn`: the lessons of a part, and what a lesson finds in the reader's server."""
from functools import partial
from typing import NamedTuple

from common.stages import Stage, stages_of
from laboratory.experiments import part3
from laboratory.experiments.scenes import SCENES
from laboratory.experiments.tables import at_once, cure, questions
from laboratory.experiments.verdicts import BUG, NO_VERDICT, NO_WORKER, Verdict, measure
from laboratory.instruments import views


class Lesson(NamedTuple):
    """What the reader's server should do when it is like that stage."""
    stage: Stage
    experiments: list  # which it must pass now
    earlier: list  # which it should have passed before, and must pass still


class Finding(NamedTuple):
    """What an experiment has found."""
    experiment: object
    verdict: Verdict
    moments: list  # of (what was done, what was seen: a request and its reply, or what the kernel showed)

    @property
    def is_bad(self):
        """Whether there is something to mend. To have no child may be right, to have no worker is not."""
        return self.verdict.outcome in (BUG, NO_WORKER, *NO_VERDICT)


def lessons(part):
    """The lessons of a part in their order. A stage that cures no bug is no lesson."""
    stages = stages_of(part)
    cures = {experiment: cure(experiment.__name__, stages) for experiment in questions(part)}
    earlier = [experiment for experiment, stage in cures.items() if stage not in stages]
    found = []
    for stage in stages:
        if experiments := [experiment for experiment in cures if cures[experiment] == stage]:
            found.append(Lesson(stage, experiments, earlier))
            earlier = [*experiments, *earlier]
    return found


def scene_of(experiment):
    """The name of the scene that shows this experiment, None for none."""
    return next((name for name, scene in SCENES.items() if scene.experiment is experiment), None)


def view_of(experiment):
    """What to show of the kernel while it runs: as in its scene, or else in one with the same cure."""
    cured = cure(experiment.__name__, stages_of('part3' if experiment in part3.EXPERIMENTS else 'part4'))
    like = [scene for scene in SCENES.values() if cured and scene.stage == cured.name]
    name = scene_of(experiment)
    return views.VIEWS[SCENES[name].view if name else like[0].view if like else 'processes']


def find(experiment, start):
    """Run an experiment; return the Finding. start is as in measure(). Raises ServerFailed."""
    view, moments = view_of(experiment), []

    def note(server, moment):
        seen = views.exchange(*server.last_exchange) if server.last_exchange else view(server)
        moments.append((moment, seen))
    return Finding(experiment, measure(experiment, start, note), moments)


def find_in_order(experiments, start, tell):
    """Run them until one finds something bad; return the Findings. tell is called with each of them."""
    findings = []
    for experiment in experiments:
        tell(experiment)
        findings.append(find(experiment, start))
        if findings[-1].is_bad:
            break
    return findings


def find_at_once(experiments, start, most):
    """Run all, at most so many at the same time; return the Findings in that order, to the first bad one."""
    findings = at_once([partial(find, experiment, start) for experiment in experiments], most=most)
    bad = [number for number, finding in enumerate(findings) if finding.is_bad]
    return findings[:bad[0] + 1] if bad else findings
