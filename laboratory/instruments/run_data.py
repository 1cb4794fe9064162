"""The data of a replay: its steps, folded and told, each with what has changed since the one before."""
import sys
from itertools import groupby

from laboratory.instruments.sentences import MOMENTS, Names, told

BARE = 'while True:', 'try:', 'else:', 'finally:'  # lines on which nothing happens
MANY = 4  # so many steps of a kind in a row are folded
MOST_STEPS = 600
MOST_MOMENTS = 9
MOST_LINES = 1000  # of a file


def data(name, scene, command, file, source, steps):
    """What is in a replay; steps are counted from 1."""
    lines = source.removesuffix('\n').split('\n')[:MOST_LINES]
    steps = folded([step for step in steps if not (step.kind == 'line' and is_bare(lines, step.line))])
    left_out = len(steps) - MOST_STEPS
    shown, before = [], {}
    for step in steps[:MOST_STEPS]:
        shown.append({name: value for name, value in {
            'who': step.who, 'kind': step.kind, 'line': step.line, 'call': step.call, 'says': told(step),
            'set': changed(before, step.after)}.items() if value not in (None, '')})
        before = step.after
    if left_out > 0:
        shown.append({'who': 'kernel', 'kind': 'folded', 'set': {},
                      'says': f'The run goes on, but its other {left_out} steps are left out here.'})
    python = f'{sys.version_info.major}.{sys.version_info.minor}'
    return {'name': name, 'scene': scene, 'command': command, 'python': python, 'file': file, 'source': lines,
            'moments': moments(steps[:MOST_STEPS]), 'steps': shown}


def is_bare(lines, number):
    return number <= len(lines) and lines[number - 1].strip() in BARE


def folded(steps):
    """The steps, where lines without calls, and what happens again and again, are one."""
    found = []
    for (who, keys), same in groupby(steps, key=lambda step: (step.who, step.keys)):
        same = list(same)
        if len(same) >= MANY and keys == ['line']:
            *most, last = same
            found += [most[-1]._replace(kind='folded', keys=['folded lines'], values={
                'who': who, 'count': len(most), 'number': most[-1].line}), last]
        elif len(same) >= MANY:
            found += [*same[:2], same[-1]._replace(kind='folded', keys=['folded'], call='', values={
                'who': who, 'count': len(same) - 2})]
        else:
            found += same
    return found


def changed(before, after):
    """The entries that are new. None is ever taken away: a process that has gone stays, as gone."""
    found = {}
    for name, value in after.items():
        was = before.get(name)
        if isinstance(value, dict) and name != 'listening':
            entries = {key: entry for key, entry in value.items() if not was or was.get(key) != entry}
            if entries or was is None:
                found[name] = entries
        elif value != was or not before:
            found[name] = value
    return found


def moments(steps):
    """The steps that are worth a jump, the weightiest of each kind of moment, in their order."""
    found = {}
    for number, step in enumerate(steps, 1):
        for key in step.keys:
            if key in MOMENTS and key not in found:
                weight, words = MOMENTS[key]
                found[key] = -weight, number, words.format_map(Names.of(step))
    best = {}
    for _, number, words in sorted(found.values()):
        best.setdefault(number, words)
    return [{'step': number, 'says': best[number]} for number in sorted(list(best)[:MOST_MOMENTS])]
