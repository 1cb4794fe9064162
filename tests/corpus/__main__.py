"""Grades well-known servers with the tests beside this, and with what .venv-corpus has."""
import sys

import pytest

from common import environment

environment.python('.venv-corpus', 'tests/corpus/requirements.txt')
sys.exit(pytest.main(['-n', '4', 'tests/corpus', *sys.argv[1:]]))
