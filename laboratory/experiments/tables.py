"""What every stage is expected to answer, and what it does answer."""
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from common.stages import stages_of
from laboratory.experiments import part2, part3, part4, part4_stopping, part4_waiting
from laboratory.experiments.verdicts import PASS, measure
from laboratory.instruments.process import stage_server

EXPERIMENTS = {'part3': part3.EXPERIMENTS, 'part2': part2.EXPERIMENTS,
               'part4': part4.EXPERIMENTS + part4_waiting.EXPERIMENTS + part4_stopping.EXPERIMENTS}
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

# The same with the modules of part 4. Each of these stages also passes everything that part 2 asks.
PART4 = """
stage          few_processes  killed_workers  killed_supervisor  stuck_application  drip  slow_client
v1.0           bug            no worker       no worker          bug                bug   pass
v1.1-protocol  bug            no worker       no worker          bug                bug   pass
v1.1           pass           bug             bug                bug                bug   pass
v1.2           pass           pass            pass               bug                bug   pass
v1.3           pass           pass            pass               pass               pass  pass
v1.4           pass           pass            pass               pass               pass  pass
v2.0           pass           pass            pass               pass               pass  pass
v2.1           pass           pass            pass               pass               pass  pass
v2.2           pass           pass            pass               pass               pass  pass
v2.3           pass           pass            pass               pass               pass  pass
final          pass           pass            pass               pass               pass  pass
"""
PART4_CONNECTIONS = """
stage          keep_alive  chunked_body  smuggling
v1.0           bug         bug           pass
v1.1-protocol  bug         bug           pass
v1.1           bug         bug           pass
v1.2           bug         bug           pass
v1.3           bug         bug           pass
v1.4           pass        pass          pass
v2.0           pass        pass          pass
v2.1           pass        pass          pass
v2.2           pass        pass          pass
v2.3           pass        pass          pass
final          pass        pass          pass
"""
PART4_WAITING = """
stage          idle_clients  waiting_application  non_reader  late_clock  no_descriptors
v1.0           bug           pass                 pass        not tested  not tested
v1.1-protocol  bug           pass                 pass        not tested  not tested
v1.1           bug           bug                  bug         not tested  not tested
v1.2           bug           bug                  bug         not tested  not tested
v1.3           bug           bug                  bug         pass        not tested
v1.4           bug           bug                  bug         pass        not tested
v2.0           pass          bug                  pass        pass        pass
v2.1           pass          pass                 pass        pass        pass
v2.2           pass          pass                 pass        pass        pass
v2.3           pass          pass                 pass        pass        pass
final          pass          pass                 pass        pass        pass
"""
PART4_STOPPING = """
stage          stop_mid_reply  restart_backlog  reload     flat
v1.0           pass            no worker        no worker  pass
v1.1-protocol  pass            no worker        no worker  pass
v1.1           bug             bug              bug        pass
v1.2           bug             bug              bug        pass
v1.3           bug             bug              bug        pass
v1.4           bug             bug              bug        pass
v2.0           bug             bug              bug        pass
v2.1           bug             bug              bug        pass
v2.2           pass            pass             pass       pass
v2.3           pass            pass             pass       pass
final          pass            pass             pass       pass
"""
TABLES = {'part2': [PART2], 'part3': [PART3],
          'part4': [PART4, PART4_CONNECTIONS, PART4_WAITING, PART4_STOPPING]}


def expected(part):
    """Read a part above: {stage name: {experiment: 'pass', 'bug' or why it does not apply}}."""
    found = {}
    for table in TABLES[part]:
        header, *rows = [re.split(r'  +', line) for line in table.strip().splitlines()]
        for row in rows:
            found.setdefault(f'{part}-{row[0]}', {}).update(zip(header[1:], row[1:], strict=True))
    return found


def due(stage):
    """What a stage answers to each question of the grader: those of part 4 come behind those of part 2."""
    passed = dict.fromkeys((experiment.__name__ for experiment in part2.EXPERIMENTS), PASS)
    return {**(passed if stage.part == 'part4' else {}), **expected(stage.part)[stage.name]}


def cure(name, part):
    """The first of those stages from which on all pass, None where all do; part 2 cures its own bugs."""
    if name in {experiment.__name__ for experiment in EXPERIMENTS['part2']}:
        part = stages_of('part2')
    before = [stage for stage in part if due(stage)[name] != PASS]
    after = part[part.index(before[-1]) + 1:] if before else []
    return after[0] if after else None


def questions(part):
    """The experiments that the grader runs on a server of that part."""
    return [*(part2.EXPERIMENTS if part == 'part4' else []), *EXPERIMENTS[part]]


def measure_all(stages, follow=lambda runs: runs):
    """Run every experiment of their part on those stages; see measure_each()."""
    return measure_each([(stage, experiment) for stage in stages
                         for experiment in EXPERIMENTS.get(stage.part, [])], follow)


def measure_each(cells, follow=lambda runs: runs):
    """Run the given pairs of stage and experiment: {(stage, experiment): Verdict}.

    follow    is given the runs, and yields them again, to show how far it is
    """
    runs = [partial(measure, experiment, partial(stage_server, stage)) for stage, experiment in cells]
    return dict(zip(cells, at_once(runs, follow), strict=True))


def at_once(runs, follow=lambda runs: runs, most=AT_ONCE):
    """Call functions that take no argument, several at the same time; return what they return."""
    with ThreadPoolExecutor(most) as pool:
        runs = [pool.submit(run) for run in runs]
        try:
            return [run.result() for run in follow(runs)]
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
