"""The rule of each folder: what its modules may import."""
import ast
import sys

import pytest

from common.stages import ROOT, all_stages

MAY_IMPORT = {  # beside the standard library; * is what .venv has
    'common': ['common'],
    'laboratory/instruments': ['common', 'laboratory.instruments', '*'],
    'laboratory/experiments': ['common', 'laboratory.instruments', 'laboratory.experiments', '*'],
    'laboratory': ['common', 'laboratory.instruments', 'laboratory.experiments', '*'],
}
MODULES = [path.relative_to(ROOT).as_posix()
           for folder in MAY_IMPORT for path in (ROOT / folder).glob('*.py')]
STAGES = [path.relative_to(ROOT).as_posix()
          for stage in all_stages() for path in (ROOT / stage.folder).glob('*.py')]


def imports(path):
    """The names of the modules that a file imports: laboratory.instruments.kernel, for example."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def is_one_of(name, packages):
    return any(f'{name}.'.startswith(f'{package}.') for package in packages)


@pytest.mark.parametrize('path', STAGES)
def test_a_stage_imports_the_standard_library_and_its_own_folder(path):
    beside = {module.stem for module in (ROOT / path).parent.glob('*.py')}
    assert {name.partition('.')[0] for name in imports(path)} <= sys.stdlib_module_names | beside


@pytest.mark.parametrize('path', MODULES)
def test_a_module_imports_what_the_rule_of_its_folder_allows(path):
    allowed = MAY_IMPORT[path.rpartition('/')[0]]
    ours = [name for name in imports(path) if is_one_of(name, ['common', 'laboratory', 'tests'])]
    others = [name for name in imports(path)
              if name not in ours and name.partition('.')[0] not in sys.stdlib_module_names]
    assert [name for name in ours if not is_one_of(name, allowed)] == []
    assert others == [] or '*' in allowed


@pytest.mark.parametrize('folder', MAY_IMPORT)
def test_a_folder_states_its_rule(folder):
    rule = ast.get_docstring(ast.parse((ROOT / folder / '__init__.py').read_text()))
    assert 'import' in rule.splitlines()[0]
