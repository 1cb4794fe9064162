"""The commands that need .venv, a module each: import instruments, experiments and common, never another command."""
