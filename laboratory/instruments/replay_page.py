"""A replay as a web page: replay.html with the run in it; and the list of such pages."""
import json
from html import escape
from pathlib import Path

TEMPLATE = Path(__file__).with_name('replay.html')
PLACE = '<script type="application/json" id="run">{}</script>'


def page(run):
    """The page of a run. No text in it can end the element: < stands as an escape sequence of JSON."""
    data = json.dumps(run, separators=(',', ':')).replace('<', r'\u003c')
    before, place, after = TEMPLATE.read_text().partition(PLACE)
    return before + place.replace('{}', data) + after


def index(runs):
    """replays/index.html: what there is to step through."""
    items = ''.join(f'<li><a href="{escape(run["name"])}.html">{escape(run["name"])}</a> {escape(run["scene"])}\n'
                    for run in runs)
    return items
