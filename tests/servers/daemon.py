"""Part 3 v1.1 in the background, in a session of its own: its parent ends at once."""
import os
import runpy

if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
runpy.run_path('part3/v1.1/server.py', run_name='__main__')
