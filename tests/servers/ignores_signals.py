"""Part 3 v1.1, deaf to everything but SIGKILL."""
import runpy
import signal

for signum in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
    signal.signal(signum, signal.SIG_IGN)
runpy.run_path('part3/v1.1/server.py', run_name='__main__')
