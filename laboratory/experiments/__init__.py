"""The questions that are put to servers: import instruments and common, and know no command."""
