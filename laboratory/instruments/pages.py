"""Writing what is measured into the pages."""


def filled(text, name, fresh):
    """The text of a page, with something fresh at the place of that name; raises ValueError without one."""
    before, begin, rest = text.partition(f'<!-- {name} -->\n')
    _, end, after = rest.partition('<!-- end -->\n')
    if not end:
        raise ValueError(f'no <!-- {name} --> and <!-- end --> in {text.partition(chr(10))[0]!r}')
    return before + begin + fresh + end + after


def markdown(head, rows):
    """A table in Markdown; the cells are texts."""
    return ''.join(f'| {" | ".join(row)} |\n' for row in [head, ['---'] * len(head), *rows])


def short(value):
    """A number with as many digits as are worth reading."""
    return f'{value:.2f}' if value < 10 else f'{value:.0f}'
