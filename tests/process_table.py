"""What other processes are running."""

import psutil


def command_of(process: psutil.Process) -> str:
    """The command line of the process; nothing of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
