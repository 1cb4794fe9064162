"""What every stage is expected to answer, and what it does answer."""
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from laboratory.experiments import part2, part3
from laboratory.experiments.verdicts import measure
from laboratory.instruments.process import stage_server

EXPERIMENTS = {'part3': part3.EXPERIMENTS, 'part2': part2.EXPERIMENTS}
AT_ONCE = 6  # experiments; each waits more than it works

# Each column is an experiment in part3.py, each row a stage.
PART3 = """
stage         silent_client  end_of_reply  descriptors  one_child  eintr       children_at_once  stopped_child
v1.0          bug            pass          pass         no child   no handler  no child          no child
v1.1-fd-leak  pass           bug           bug          bug        no handler  bug               pass
v1.1          pass           pass          pass         bug        no handler  bug               pass
v1.2          pass           pass          pass         pass       bug         bug               bug
v1.3          pass           pass          pass         pass       pass        bug               bug
final         pass           pass          pass         pass       pass        pass              pass
"""

# The same with part2.py.
PART2 = """
stage  hello  environ  whole_request  whole_response  validator  binary_body  outlives  refuses  promises
v1.0   pass   bug      bug            bug             bug        pass         bug       bug      bug
v1.1   pass   pass     pass           bug             bug        pass         bug       bug      bug
v1.2   pass   pass     pass           pass            pass       pass         bug       bug      bug
v1.3   pass   pass     pass           pass            pass       pass         pass      bug      bug
v1.4   pass   pass     pass           pass            pass       pass         pass      pass     bug
final  pass   pass     pass           pass            pass       pass         pass      pass     pass
"""


def expected(part):
    """Read a table above: {stage name: {experiment: 'pass', 'bug' or why it does not apply}}."""
    table = {'part2': PART2, 'part3': PART3}[part]
    header, *rows = [re.split(r'  +', line) for line in table.strip().splitlines()]
    return {f'{part}-{row[0]}': dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def measure_all(stages, follow=lambda runs: runs):
    """Run every experiment on those stages: {(stage, experiment): Verdict}.

    follow    is given the runs, and yields them again, to show how far it is
    """
    cells = [(stage, experiment) for stage in stages for experiment in EXPERIMENTS.get(stage.part, [])]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [pool.submit(measure, experiment, partial(stage_server, stage)) for stage, experiment in cells]
        try:
            return dict(zip(cells, [run.result() for run in follow(runs)], strict=True))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def measured(stages, follow=lambda runs: runs):
    """What expected() should be: {part: {stage name: {name of the experiment: outcome}}}."""
    outcomes = {}
    for (stage, experiment), verdict in measure_all(stages, follow).items():
        row = outcomes.setdefault(stage.part, {}).setdefault(stage.name, {})
        row[experiment.__name__] = verdict.outcome
    return outcomes
