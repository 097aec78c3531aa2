"""A process without rights: limits of memory and time, and no system calls but those of plain computing.

``seal`` is for a process that reads what strangers made. From then on it computes, uses memory, reads and writes the
descriptors that are open already, starts threads, and ends. It opens no file, for reading or writing, makes no socket,
starts no process, runs no program, sends no signal to others, and cannot undo any of it: a call that is not listed here
is answered with an error. The same holds for native code in it, whatever a defect there allows.

Linux on x86-64 and ARM64 alone has the filter; elsewhere the limits are set without it.
"""

from __future__ import annotations

import errno
import os
import platform
import resource
from typing import Final

from vectorpool.platform import seccomp

# By machine: the numbers of the calls that stay.
_ALLOWED: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "read": 0, "write": 1, "readv": 19, "writev": 20, "close": 3, "fstat": 5, "lseek": 8, "mmap": 9, "munmap": 11,
        "mremap": 25, "mprotect": 10, "madvise": 28, "brk": 12, "futex": 202, "set_robust_list": 273, "rseq": 334,
        "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sigaltstack": 131, "sched_yield": 24,
        "sched_getaffinity": 204, "nanosleep": 35, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
        "gettimeofday": 96, "getrandom": 318, "getpid": 39, "gettid": 186, "exit": 60, "exit_group": 231, "poll": 7,
        "ppoll": 271, "epoll_create1": 291, "epoll_ctl": 233, "epoll_wait": 232, "epoll_pwait": 281, "eventfd2": 290,
        "pipe2": 293, "getrusage": 98, "membarrier": 324, "restart_syscall": 219, "uname": 63, "sysinfo": 99,
        "getcpu": 309,
    },
    "aarch64": {
        "read": 63, "write": 64, "readv": 65, "writev": 66, "close": 57, "fstat": 80, "lseek": 62, "mmap": 222,
        "munmap": 215, "mremap": 216, "mprotect": 226, "madvise": 233, "brk": 214, "futex": 98, "set_robust_list": 99,
        "rseq": 293, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "sigaltstack": 132,
        "sched_yield": 124, "sched_getaffinity": 123, "nanosleep": 101, "clock_gettime": 113, "clock_getres": 114,
        "clock_nanosleep": 115, "gettimeofday": 169, "getrandom": 278, "getpid": 172, "gettid": 178, "exit": 93,
        "exit_group": 94, "ppoll": 73, "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22, "eventfd2": 19,
        "pipe2": 59, "getrusage": 165, "membarrier": 283, "restart_syscall": 128, "uname": 160, "sysinfo": 179,
        "getcpu": 168,
    },
}  # fmt: skip
# Calls with a condition, by the numbers of clone, tgkill, clone3, fcntl and socketpair. Clone makes threads alone, and
# clone3 is as if it did not exist, so that the C library uses clone, whose flags a filter can see. Tgkill reaches the
# process itself (abort). Fcntl copies descriptors and sets their flags, not whom they signal. A pair of Unix sockets
# leads nowhere but into the process, because no call that names an address is allowed; Tokio needs one.
_CONDITIONAL: Final = {"x86_64": (56, 234, 435, 72, 53), "aarch64": (220, 131, 435, 25, 199)}
_FCNTL: Final = (0, 1, 2, 3, 4, 1030)
_AF_UNIX: Final = 1
_CLONE_THREAD: Final = 0x00010000
_REFUSE: Final = (seccomp.RETURN, 0, 0, seccomp.ANSWER | errno.EPERM)
_ALLOW: Final = (seccomp.RETURN, 0, 0, seccomp.ALLOW)


def limit(*, memory_bytes: int, cpu_s: int, descriptors: int) -> None:
    """Bound this process: its address space, its processor time, its descriptors; no file grows, no core is written.

    A limit that the operating system does not know, or that is above the one in force, is left as it is.
    """
    for name, most in (
        ("RLIMIT_AS", memory_bytes),
        ("RLIMIT_CPU", cpu_s),
        ("RLIMIT_NOFILE", descriptors),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_CORE", 0),
    ):
        number = getattr(resource, name, None)
        if number is None:
            continue
        hard = resource.getrlimit(number)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(number, (bound, bound))
        except (ValueError, OSError):
            # macOS refuses RLIMIT_AS.
            continue


def seal() -> bool:
    """Leave this process nothing but plain computing; return whether the kernel enforces it."""
    machine = platform.machine()
    architecture, allowed = seccomp.ARCHITECTURE, _ALLOWED.get(machine)
    if architecture is None or allowed is None:
        return False
    clone, tgkill, clone3, fcntl, socketpair = _CONDITIONAL[machine]
    steps: list[seccomp.Step] = [
        (seccomp.LOAD, 0, 0, seccomp.ARCHITECTURE_AT),
        (seccomp.JUMP_IF_EQUAL, 1, 0, architecture),
        _REFUSE,
        (seccomp.LOAD, 0, 0, seccomp.NUMBER_AT),
    ]
    for number in allowed.values():
        steps += [(seccomp.JUMP_IF_EQUAL, 0, 1, number), _ALLOW]
    steps += [
        (seccomp.JUMP_IF_EQUAL, 0, 1, clone3),
        (seccomp.RETURN, 0, 0, seccomp.ANSWER | errno.ENOSYS),
        *_on_condition(clone, 0, seccomp.JUMP_IF_ANY_BIT, _CLONE_THREAD),
        *_on_condition(tgkill, 0, seccomp.JUMP_IF_EQUAL, os.getpid()),
        *_on_condition(socketpair, 0, seccomp.JUMP_IF_EQUAL, _AF_UNIX),
        *_on_condition(fcntl, 1, seccomp.JUMP_IF_EQUAL, *_FCNTL),
        _REFUSE,
    ]
    return seccomp.set_filter(steps)


def _on_condition(number: int, argument: int, test: int, *values: int) -> list[seccomp.Step]:
    """Return steps that allow a call if the test holds for one of the values, and refuse it otherwise.

    Only the lower half of the argument is seen, which is all that the kernel uses of these.
    """
    tests = [step for value in values for step in ((test, 0, 1, value), _ALLOW)]
    load = (seccomp.LOAD, 0, 0, seccomp.ARGUMENTS_AT + 8 * argument)
    return [(seccomp.JUMP_IF_EQUAL, 0, len(tests) + 2, number), load, *tests, _REFUSE]
