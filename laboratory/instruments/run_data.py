"""The data of a replay: its steps, folded and told, each with what has changed since the one before."""
import re
import sys
from itertools import groupby

from laboratory.instruments.sentences import MOMENTS, Names, explained, told

BARE = 'while True:', 'try:', 'else:', 'finally:'  # lines on which nothing happens
MANY = 4  # so many steps of a kind in a row are folded
MOST_STEPS = 600
MOST_MOMENTS = 9
MOST_LINES = 1000  # of a file
MOST_COLUMNS = 300  # of a line


def data(name, scene, command, file, source, steps):
    """What is in a replay; steps are counted from 1."""
    lines = shortened(source.removesuffix('\n').split('\n'))
    steps = folded([step for step in with_source(steps, lines) if not is_bare(lines, step)])
    left_out = len(steps) - MOST_STEPS
    shown, before, known = [], {}, set()
    for step in steps[:MOST_STEPS]:
        shown.append({name: value for name, value in {
            'who': step.who, 'kind': step.kind, 'line': step.line, 'call': step.call,
            'says': explained(told(step), known),
            'set': changed(before, step.after)}.items() if value not in (None, '')})
        before = step.after
    if left_out > 0:
        shown.append({'who': 'kernel', 'kind': 'folded', 'set': {},
                      'says': f'The run goes on, but its other {left_out} steps are left out here.'})
    python = f'{sys.version_info.major}.{sys.version_info.minor}'
    return {'name': name, 'scene': scene, 'command': command, 'python': python, 'file': file, 'source': lines,
            'moments': moments(steps[:MOST_STEPS]), 'steps': shown}


def shortened(lines):
    """The lines of a file as they are shown; what is left out is told."""
    left_out = len(lines) - MOST_LINES
    lines = [line if len(line) <= MOST_COLUMNS else f'{line[:MOST_COLUMNS]}…' for line in lines[:MOST_LINES]]
    return lines + [f'… ({left_out} more lines)'] * (left_out > 0)


def with_source(steps, lines):
    """The steps, where the source tells more of a line: that it catches an error, or that its block ends."""
    before = {}
    for step in steps:
        text = text_of(lines, step)
        if text.startswith('except') and re.search(rf'\b{step.values["caught"] or "-"}\b', text):
            yield step._replace(keys=['catches'])
        elif text.startswith('with ') and is_inside(lines, step.line, before.get(step.who, 0)):
            yield step._replace(keys=['with ends'])
        else:
            yield step
        if text:
            before[step.who] = step.line


def text_of(lines, step):
    """The line to which a step comes, '' for another step."""
    return lines[step.line - 1].strip() if step.keys == ['line'] and step.line <= len(lines) else ''


def is_inside(lines, number, other):
    """Whether the other line is in the block that begins on that one."""
    def indent(line):
        return len(line) - len(line.lstrip())
    block = filter(str.strip, lines[number:other])
    return other > number and all(indent(line) > indent(lines[number - 1]) for line in block)


def is_bare(lines, step):
    return text_of(lines, step) in BARE


def folded(steps):
    """The steps, where lines without calls, and what happens again and again, are one."""
    found = []
    for (who, keys), same in groupby(steps, key=lambda step: (step.who, step.keys)):
        same = list(same)
        if len(same) >= MANY and keys == ['line']:
            *most, last = same
            key = 'folded lines' if found else 'first lines'
            found += [most[-1]._replace(kind='folded', keys=[key], values={
                'who': who, 'count': len(most), 'number': most[-1].line}), last]
        elif len(same) >= MANY and keys == ['prints']:
            found += [*same[:2], same[-1]._replace(kind='folded', keys=['folded prints'], values={
                **same[-1].values, 'count': len(same) - 2})]
        elif len(same) >= MANY:
            found += [*same[:2], same[-1]._replace(kind='folded', keys=['folded'], call='', values={
                'who': who, 'count': len(same) - 2})]
        else:
            found += same
    return found


def changed(before, after):
    """The entries that are new, and of the output what was added. None is ever taken away: see `gone`."""
    found = {}
    for name, value in after.items():
        was = before.get(name)
        if name == 'output':
            size = value[0] - (was[0] if was else 0)
            found |= {'prints': value[1][-size:]} if size else {}
        elif isinstance(value, dict) and name != 'listening':
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
    if 'again' in found:  # which says that the call was interrupted
        found.pop('EINTR', None)
    best = {}
    for _, number, words in sorted(found.values()):
        best.setdefault(number, words)
    return [{'step': number, 'says': best[number]} for number in sorted(list(best)[:MOST_MOMENTS])]
