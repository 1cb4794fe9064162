"""The questions: a module for each part, and what every stage is expected to answer."""
