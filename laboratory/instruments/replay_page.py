"""A replay as a web page: replay.html with the run in it; and the page that lists them."""
import json
from html import escape
from pathlib import Path

TEMPLATE = Path(__file__).with_name('replay.html')
PLACE = '<script type="application/json" id="run">{}</script>'
INDEX = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Replays</title>
<style>
:root { color-scheme: light dark; --paper: #faf8f4; --ink: #24272c; --quiet: #676c75; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #17191d; --ink: #e6e3dc; --quiet: #a6abb3; }
}
body { max-width: 42em; margin: 3em auto; padding: 0 1em; background: var(--paper); color: var(--ink);
       font: 16px/1.5 system-ui, "Liberation Sans", sans-serif; }
dt { margin-top: 1.2em; font-weight: 600; }
dd { margin: 0; }
dd + dd, p { color: var(--quiet); }
a { color: inherit; }
</style>
<h1>Replays</h1>
<p>Real runs of the servers, to step through: each line and each call, in all processes,
with what the kernel knows beside it.</p>
<dl>
{}</dl>
</html>
"""


def page(run):
    """The page of a run. No text in it can end the element: < stands as an escape sequence of JSON."""
    data = json.dumps(run, separators=(',', ':')).replace('<', r'\u003c')
    before, place, after = TEMPLATE.read_text('utf-8').partition(PLACE)
    return before + place.replace('{}', data) + after


def index(runs):
    """The page that lists the replays of a folder, each in a file of its name."""
    return INDEX.replace('{}', ''.join(
        f'<dt><a href="{escape(run["name"])}.html">{escape(run["name"])}</a>\n'
        f'<dd>{escape(run["scene"])}\n<dd>{len(run["steps"])} steps, {len(run["moments"])} moments\n'
        for run in runs))
