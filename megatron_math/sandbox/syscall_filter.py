"""The system calls of a snippet: an allow-list, as a program for seccomp.

What stands in no list below is refused and, where the kernel can report it, noted. An allow-list,
because Linux gains system calls every year and code that computes needs a hundred old ones.
"""

import errno
import functools
import platform
import struct

from megatron_math.sandbox.syscalls import numbers

# Memory, time, threads of its own, signals to itself, files of its own root; and what reads facts
# of the process alone.
ALLOWED = """
    read write readv writev pread64 pwrite64 preadv pwritev lseek sendfile copy_file_range
    open openat creat close close_range dup dup2 dup3 pipe pipe2 poll ppoll select pselect6
    stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2
    readlink readlinkat getcwd chdir fchdir getdents getdents64 umask
    mmap munmap mprotect mremap madvise msync brk
    futex set_robust_list get_robust_list rseq set_tid_address membarrier getcpu
    sched_yield sched_getaffinity gettid getpid getppid getpgid getpgrp getsid
    getuid geteuid getgid getegid getgroups getresuid getresgid getpriority
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait
    sigaltstack pause alarm getitimer setitimer restart_syscall wait4 waitid
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times
    getrandom getrusage getrlimit sysinfo uname exit exit_group
"""

# Only in a root of its own: Landlock knows nothing of modes and times, and before Linux 6.2 nothing
# of truncation.
ALLOWED_IN_OWN_ROOT = """
    mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
    truncate ftruncate chmod fchmod fchmodat utime utimes futimesat utimensat fsync fdatasync
"""

# glibc asks for these and takes an older call when the kernel does not know them: clone3 hides
# its flags in memory, where a filter cannot see them.
UNKNOWN = ["clone3", "futex_waitv", "openat2", "set_mempolicy_home_node"]

# Nothing that computes calls these, and each has opened a kernel before: the process ends.
FATAL = """
    ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp
    mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick
    mount_setattr unshare setns swapon swapoff quotactl quotactl_fd
    bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register
    keyctl add_key request_key init_module finit_module delete_module kexec_load kexec_file_load
    open_by_handle_at name_to_handle_at fanotify_init fanotify_mark lookup_dcookie
    iopl ioperm modify_ldt reboot syslog acct settimeofday clock_settime clock_adjtime adjtimex
    sethostname setdomainname vhangup nfsservctl uselib memfd_secret vmsplice
"""

F_COMMANDS = (0, 1, 2, 3, 4, 1030, 1032)  # dup, descriptor and status flags, a pipe's size
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal; FIO*
PRCTLS = (15, 16, 0x53564D41)  # a thread's name, a mapping's name
CLONE_THREAD = 0x00010000
# namespaces, tracing and vfork; a pidfd
CLONE_FLAGS_REFUSED = 0x7E020000 | 0x00002000 | 0x00800000 | 0x00004000 | 0x00001000 | 0x00000080

AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
KILL_PROCESS, REPORT, ALLOW, ERROR = 0x80000000, 0x7FC00000, 0x7FFF0000, 0x00050000

Instruction = tuple[int, int, int, int]
LOAD, EQUAL, AT_LEAST, ABOVE, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x25, 0x45, 0x06
STAND_IN_PID = 0x7ACEB00C  # above every pid, and no other word of the program
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
ARGUMENT = tuple(16 + 8 * place for place in range(6))  # the low word: all that these calls read


def program(own_pid: int, *, report: bool, own_root: bool) -> bytes:
    """The filter of a process whose pid, as it sees itself, is `own_pid`.

    report: what is refused goes to the listener, which answers; else it fails with EPERM.
    own_root: the files that it can reach are its own to change, as far as they can be changed.
    """
    stand_in, own = (struct.pack("=I", pid) for pid in (STAND_IN_PID, own_pid))
    return assemble(report=report, own_root=own_root).replace(stand_in, own)


@functools.cache
def assemble(*, report: bool, own_root: bool, machine: str | None = None) -> bytes:
    """The filter with `STAND_IN_PID` for the process's own pid."""
    machine = machine or platform.machine()
    known = numbers(machine)
    refuse = (RETURN, 0, 0, REPORT if report else ERROR | errno.EPERM)
    code: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, AUDIT_ARCHITECTURE[machine]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32_BIT),  # the x32 numbers of the same calls
        (RETURN, 0, 0, KILL_PROCESS),
    ]
    allowed = ALLOWED + (ALLOWED_IN_OWN_ROOT if own_root else "")
    code += _one_answer([known[name] for name in allowed.split() if name in known], ALLOW)
    code += _one_answer([known[name] for name in FATAL.split() if name in known], KILL_PROCESS)
    absent = [known[name] for name in UNKNOWN if name in known]
    code += _one_answer(absent, ERROR | errno.ENOSYS)
    code += _by_argument(known["fcntl"], 1, F_COMMANDS, refuse)
    code += _by_argument(known["ioctl"], 1, IOCTLS, refuse)
    code += _by_argument(known["prctl"], 0, PRCTLS, refuse)
    code += _by_argument(known["prlimit64"], 0, (0, STAND_IN_PID), refuse)
    code += _by_argument(known["kill"], 0, (STAND_IN_PID,), refuse)
    code += _by_argument(known["tgkill"], 0, (STAND_IN_PID,), refuse)
    code += [
        (EQUAL, 0, 5, known["clone"]),
        (LOAD, 0, 0, ARGUMENT[0]),
        (ANY_BIT, 1, 0, CLONE_FLAGS_REFUSED),
        (ANY_BIT, 1, 0, CLONE_THREAD),
        refuse,
        (RETURN, 0, 0, ALLOW),
        refuse,
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _one_answer(calls: list[int], answer: int) -> list[Instruction]:
    """`answer` for each of the calls, by runs of neighbouring numbers."""
    code: list[Instruction] = []
    runs: list[list[int]] = []
    for call in sorted(calls):
        if runs and runs[-1][1] == call - 1:
            runs[-1][1] = call
        else:
            runs.append([call, call])
    for first, last in runs:
        code += [
            (AT_LEAST, 0, 2, first),
            (ABOVE, 1, 0, last),
            (RETURN, 0, 0, answer),
        ]
    return code


def _by_argument(
    call: int, argument: int, allowed: tuple[int, ...], refuse: Instruction
) -> list[Instruction]:
    """The call is allowed when its argument is one of `allowed`."""
    count = len(allowed)
    return [
        (EQUAL, 0, count + 3, call),
        (LOAD, 0, 0, ARGUMENT[argument]),
        *((EQUAL, count - place, 0, value) for place, value in enumerate(allowed)),
        refuse,
        (RETURN, 0, 0, ALLOW),
    ]


def name_of(call: int) -> str:
    """A system call's name by its number here."""
    return next((n for n, number in numbers().items() if number == call), f"system call {call}")
