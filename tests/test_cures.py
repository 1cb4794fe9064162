"""The cure is what cures: without its line, part3 final has the bug again."""
import re
from functools import partial

import pytest

from common.stages import ROOT, Stage
from laboratory.experiments import part3
from laboratory.experiments.verdicts import measure
from laboratory.instruments.process import stage_server

CURES = {
    'the close in the parent': (
        r"        client_fd\.close\(\)  # the parent's copy\n", '', part3.end_of_reply,
        '33 bytes of reply, then nothing: no FIN'),
    'the handler': (
        r'    signal\.signal\(signal\.SIGCHLD, handle_exit\)\n', '', part3.one_child,
        'the child has answered and is a zombie'),
    'the loop of the handler': (
        r'(def handle_exit.*\n)    while True:', r'\1    for _ in range(1):', part3.children_at_once,
        '23 zombies after 24 children ended together'),
    'WNOHANG': (
        r'os\.waitpid\(-1, os\.WNOHANG\)', 'os.waitpid(-1, 0)', part3.stopped_child,
        'the next client waits as long as a child is stopped'),
    'the retry of accept()': (
        r'        except InterruptedError:.*\n            continue\n', '        finally:\n            pass\n',
        part3.eintr, 'the first SIGCHLD ends the server'),
}


@pytest.mark.parametrize('cure', CURES)
def test_without_its_cure_final_has_the_bug(cure, tmp_path):
    pattern, replacement, experiment, evidence = CURES[cure]
    source, count = re.subn(pattern, replacement, (ROOT / 'part3/final/server.py').read_text())
    assert count == 1
    (tmp_path / 'server.py').write_text(source)
    mutant = partial(stage_server, Stage('mutant', str(tmp_path)))
    assert measure(experiment, mutant)[:2] == ('bug', evidence)
