"""Ending a process by its id."""

import os
import resource
import subprocess

from kilonova.agent.helper.run import end

MANY = 1030  # select() refuses descriptors from 1,024 on


def test_one_ends_in_a_process_with_many_open_files() -> None:
    """It raised ValueError: file descriptor out of range in select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(4096, hard) if hard != resource.RLIM_INFINITY else 4096
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(MANY)]
    try:
        child = subprocess.Popen(["sleep", "600"])
        end(child.pid)
        assert child.wait(30) == -15
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
