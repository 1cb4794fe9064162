"""The commands that need .venv: they import experiments, instruments and common, never each other."""
