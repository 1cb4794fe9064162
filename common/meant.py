"""Prints which of the commands was meant by an unknown one, as a question; nothing where none comes close.

Use: python3 -m common.meant part3_final part1 part3-final trace ...
"""
import difflib
import re
import sys


def meant(typed, known):
    """Those of the known names that are the same in other signs, or end so, or differ by a typo."""
    name = re.sub('[^a-z0-9.]+', '-', typed.lower()).strip('-')
    others = 'diff-', 'trace-', 'replay-', 'help-'
    ends = [each for each in known if each.endswith(f'-{name}') and not each.startswith(others)]
    near = [each for each in known if digits(each) == digits(name)]  # v9 is no typo of v1.0
    return [name] if name in known else ends or difflib.get_close_matches(name, near, 1, 0.8)


def digits(name):
    return re.sub('[^0-9]', '', name)


def main(typed, *known):
    if found := meant(typed, known):
        print(f'did you mean {", ".join(found[:-1])}{" or " * bool(found[1:])}{found[-1]}?')


if __name__ == '__main__':
    main(*sys.argv[1:])
