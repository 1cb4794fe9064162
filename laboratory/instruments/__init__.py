"""What looks at servers and talks to them: imports common and the libraries of .venv, and knows no experiment."""
