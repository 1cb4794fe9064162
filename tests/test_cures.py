"""The cure is what cures: without its line, part3 final has the bug again."""
import re
from functools import partial

import pytest

from common import experiments
from common.experiments import measure
from common.process import stage_server
from common.stages import ROOT, Stage

CURES = {
    'the close in the parent': (
        r"        client_fd\.close\(\)  # the parent's copy\n", '', experiments.end_of_reply,
        '33 bytes of reply, then nothing: no FIN'),
    'the handler': (
        r'    signal\.signal\(signal\.SIGCHLD, handle_exit\)\n', '', experiments.one_child,
        'the child has answered and is a zombie'),
    'the loop of the handler': (
        r'(def handle_exit.*\n)    while True:', r'\1    for _ in range(1):', experiments.children_at_once,
        '23 zombies after 24 children ended at once'),
    'WNOHANG': (
        r'os\.waitpid\(-1, os\.WNOHANG\)', 'os.waitpid(-1, 0)', experiments.stopped_child,
        'the next client waits for as long as a child is stopped'),
    'the retry of accept()': (
        r'        except InterruptedError:.*\n            continue\n', '        finally:\n            pass\n',
        experiments.eintr, 'the first SIGCHLD ends the server'),
}


@pytest.mark.parametrize('cure', CURES)
def test_without_its_cure_final_has_the_bug(cure, tmp_path):
    pattern, replacement, experiment, evidence = CURES[cure]
    source, count = re.subn(pattern, replacement, (ROOT / 'part3/final/server.py').read_text())
    assert count == 1
    (tmp_path / 'server.py').write_text(source)
    mutant = partial(stage_server, Stage('mutant', str(tmp_path)))
    assert measure(experiment, mutant) == ('bug', evidence)
