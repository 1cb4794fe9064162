"""Who uses the CPU: the seconds that the kernel counts, and the system calls that a thread makes."""
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress

from laboratory.instruments import kernel


def cpu_time(pids):
    """The CPU seconds that the processes have used, and the children that they have waited for (Linux)."""
    used = 0
    for pid in pids:
        with suppress(OSError):  # it has ended
            used += time.clock_gettime(~pid << 3 | 2)  # in ns, see clock_getcpuclockid(3); in /proc in 10 ms
        if fields := kernel.stat(f'/proc/{pid}'):
            used += (int(fields[13]) + int(fields[14])) / kernel.TICKS  # cutime and cstime, see proc(5)
    return used


def run_times(pids):
    """{folder of a thread: (its seconds of CPU, those in which it waited for one)}, see schedstat (Linux)."""
    found = {task: kernel.read(f'{task}/schedstat').split() for pid in pids for task in kernel.tasks(pid)}
    return {task: (int(fields[0]) / 1e9, int(fields[1]) / 1e9) for task, fields in found.items() if fields}


def calls_of(task):
    """The system calls that a thread makes, a line each, as strace shows them; '' where it cannot."""
    if not shutil.which('strace'):
        return ''
    with tempfile.NamedTemporaryFile('r', errors='replace') as log:
        strace = subprocess.Popen(['strace', '-qq', '-o', log.name, '-p', os.path.basename(task)],
                                  stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        kernel.eventually(lambda: os.path.getsize(log.name) > 1000 or strace.poll() is not None, 1)
        strace.terminate()
        strace.wait()
        return log.read()
