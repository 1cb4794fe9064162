"""What looks at servers and talks to them: imports common and what .venv has, and knows no experiment."""
