"""Part 3 v1.1 in the background, in a session of its own: it begins once its parent has ended."""
import os
import runpy
import time

if os.fork():
    os._exit(0)
os.setsid()
leader = os.getpid()
if os.fork():
    memory = b'.' * 300_000_000  # long to free: meanwhile it has no environment, but still a child
    os._exit(0)
while os.getppid() == leader:
    time.sleep(0.01)
runpy.run_path('part3/v1.1/server.py', run_name='__main__')
