"""The commands that show what servers do: each module is one that make runs, or what they share."""
