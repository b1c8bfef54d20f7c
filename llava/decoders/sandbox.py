"""What a decoder's process may do: one regular file, a stated amount of memory, no life beyond its parent's."""

import os
import resource
import stat
import threading
import time

from llava.decoders.base import VideoError

MEMORY = 4 * 2**30  # bytes; 8K video of 10 bits takes about 2 GiB


def open_regular(path: str) -> int:
    """A descriptor of a file to read. VideoError for a pipe, a device, a socket or what may not be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise VideoError(f"{path} cannot be opened ({error.strerror}); give a file that can be read.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise VideoError(f"{path} is no regular file; give a video file or a folder of pictures.")
    return descriptor


def limit_memory(most: int) -> None:
    """Makes allocations fail beyond `most` bytes of data (on Linux; elsewhere the kernel may not count them)."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_open_files(files: int = 0) -> None:
    """Lets the kernel refuse to open more than so many further files or sockets at a time, by whatever trick.

    Modules must have been imported before.
    """
    lowest = os.dup(0)  # the kernel gives the lowest number that is free
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + files, lowest + files))


def exit_with_parent(parent: int) -> None:
    """Ends this process soon after its parent, however that ended.

    Asks who the parent is: Linux's PR_SET_PDEATHSIG would kill when the thread that started the decoder ends, and the
    end of a pipe is not seen while another fork holds it open.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.25)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
