"""Forks very many children before it listens."""
import os
import time

for _ in range(500):
    if os.fork() == 0:
        break
time.sleep(60)
