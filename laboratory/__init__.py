"""The commands that need .venv, a module each; none imports another, only what is in the folders."""
