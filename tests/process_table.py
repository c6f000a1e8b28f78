"""What other processes are running."""

import psutil


def command_of(process: psutil.Process) -> str:
    """The command line of the process; nothing of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def forked_processes() -> set[psutil.Process]:
    """The processes that this one's fork server has forked, as their identity, not their number."""
    servers = [child for child in psutil.Process().children() if "multiprocessing.forkserver" in command_of(child)]
    return {process for server in servers for process in server.children()}
