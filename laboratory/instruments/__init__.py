"""What the experiments and commands use: a server as a process, the kernel's view of it, clients of it."""
