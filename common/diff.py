"""Shows the step between two stages: diff.py TO (from the stage before it), or diff.py FROM TO."""
import subprocess
import sys

from common.stages import ROOT, find_stage, stage_before


def main(*names):
    stages = [find_stage(name) for name in names]
    if len(stages) == 1:
        if stage_before(stages[0]) is None:
            sys.exit(f'{stages[0].name} is the first stage of its part: none is before it')
        stages.insert(0, stage_before(stages[0]))
    if len(stages) != 2:
        sys.exit('Name two stages: make diff FROM=part3-v1.1 TO=part3-final')
    git = ['git', '--no-pager', 'diff', '--no-index', '--no-prefix']  # in colour on a terminal
    subprocess.run([*git, *(stage.server for stage in stages)], cwd=ROOT)


if __name__ == '__main__':
    main(*sys.argv[1:])
