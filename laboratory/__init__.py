"""The commands that need .venv: they import bugs, instruments and common, never each other."""
