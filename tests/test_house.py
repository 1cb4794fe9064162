"""The rule of each folder: what its modules may import."""
import ast
import sys

import pytest

from common.stages import ROOT, all_stages

MAY_IMPORT = {  # beside the standard library; * is what .venv has. A command imports no other command.
    'common': ['common'],
    'laboratory/instruments': ['common', 'laboratory.instruments', '*'],
    'laboratory/bugs': ['common', 'laboratory.instruments', '*'],
    'laboratory': ['common', 'laboratory.instruments', 'laboratory.bugs', '*'],
}
MODULES = [path.relative_to(ROOT).as_posix()
           for folder in MAY_IMPORT for path in sorted((ROOT / folder).glob('*.py'))]
STAGES = [path.relative_to(ROOT).as_posix()
          for stage in all_stages() for path in sorted((ROOT / stage.folder).glob('*.py'))]


def imports(path):
    """The names of the modules that a file imports: laboratory.instruments.kernel, for example."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def is_one_of(name, packages):
    return any(f'{name}.'.startswith(f'{package}.') for package in packages)


def test_a_stage_imports_the_standard_library_and_its_own_folder():
    found = {path: {name.partition('.')[0] for name in imports(path)} - sys.stdlib_module_names
             for path in STAGES}
    beside = {path: {module.stem for module in (ROOT / path).parent.glob('*.py')} for path in STAGES}
    assert {path: names - beside[path] for path, names in found.items() if names - beside[path]} == {}


@pytest.mark.parametrize('folder', MAY_IMPORT)
def test_a_module_imports_what_the_rule_of_its_folder_allows(folder):
    rule = ast.get_docstring(ast.parse((ROOT / folder / '__init__.py').read_text()))
    assert 'import' in rule.splitlines()[0]
    allowed, forbidden = MAY_IMPORT[folder], []
    for path in MODULES:
        if path.rpartition('/')[0] == folder:
            forbidden += [(path, name) for name in imports(path)
                          if not is_one_of(name, [*allowed, *sys.stdlib_module_names])
                          and ('*' not in allowed or is_one_of(name, ['common', 'laboratory', 'tests']))]
    assert forbidden == []


def test_a_module_of_the_laboratory_is_read_at_one_sitting():
    sizes = {path: len((ROOT / path).read_text().splitlines()) for path in MODULES}
    assert {path: size for path, size in sizes.items() if size >= 350} == {}
