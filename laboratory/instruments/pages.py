"""What is measured as the pages show it: tables in Markdown, and a bar chart as SVG."""
import sys
from xml.sax.saxutils import escape

TEXT = '#7a828c'
NAMES, PANEL, GAP = 150, 240, 50  # widths
NUMBER = 46  # what a number needs behind the longest bar
ROW, BAR, TOP = 22, 14, 62  # heights


def filled(text, name, fresh):
    """The text of a page, with something fresh at the place of that name; exits with one line without one."""
    before, begin, rest = text.partition(f'<!-- {name} -->\n')
    _, end, after = rest.partition('<!-- end -->\n')
    if not end:
        sys.exit(f'{text.partition(chr(10))[0]}: the page has no lines <!-- {name} --> and <!-- end -->')
    return before + begin + fresh + end + after


def markdown(head, rows):
    """A table in Markdown; the cells are texts."""
    return ''.join(f'| {" | ".join(row)} |\n' for row in [head, ['---'] * len(head), *rows])


def short(value):
    """A number with as many digits as are worth reading."""
    return f'{value:.2f}' if value < 10 else f'{value:.0f}'


def text(x, y, words, anchor='start', weight='normal'):
    return (f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" fill="{TEXT}">'
            f'{escape(words)}</text>')


def bars(x, title, values, colours):
    """The elements of a panel that begins at x. A bar that would make all others short has a gap in it."""
    yield text(x, TOP - 14, title, weight='bold')
    longest, second, *_ = sorted([*values, 0, 0], reverse=True)
    room = PANEL - NUMBER
    scale = room / (min(longest, 1.5 * second) or longest)
    for row, (value, colour) in enumerate(zip(values, colours, strict=True)):
        y, width = TOP + row * ROW, max(1, round(value * scale))
        pieces = [(x, width)] if width <= room else [(x, room - 24), (x + room - 20, 20)]
        for left, length in pieces:
            yield f'<rect x="{left}" y="{y}" width="{length}" height="{BAR}" fill="{colour}"/>'
        yield text(x + min(width, room) + 6, y + BAR - 2, short(value))


def chart(title, rows, panels):
    """A bar chart as SVG: each row, a (name, colour), has a value in each of the panels {title: values}.

    It has no background, and colours of a middle brightness: they can be read on white and on black. (An
    image in a page is not told whether that page is dark; `prefers-color-scheme` only knows the system.)
    """
    width, height = NAMES + len(panels) * (PANEL + GAP), TOP + len(rows) * ROW
    parts = [text(NAMES, 18, title)]
    parts += [text(NAMES - 10, TOP + row * ROW + BAR - 2, name, 'end') for row, (name, _) in enumerate(rows)]
    for place, (head, values) in enumerate(panels.items()):
        parts += bars(NAMES + place * (PANEL + GAP), head, values, [colour for _, colour in rows])
    body = '\n'.join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="system-ui, sans-serif" font-size="13">\n{body}\n</svg>\n')
