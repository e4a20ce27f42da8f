"""The filter of system calls, run number by number as the kernel would."""

import re
from pathlib import Path

import pytest

from megatron_math.sandbox import syscall_filter
from megatron_math.sandbox.syscalls import numbers

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_the_kernels(machine) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"the kernel's headers are not installed: {HEADERS[machine]}")
    text = HEADERS[machine].read_text()
    found = re.findall(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)\s*$", text, re.MULTILINE)
    theirs = {name.replace("fstatat", "newfstatat", name == "fstatat"): int(n) for name, n in found}
    ours = numbers(machine)
    assert len(ours) > 300
    assert {name: theirs.get(name) for name in ours} == ours


@pytest.mark.parametrize("own_root", [True, False])
@pytest.mark.parametrize("machine", HEADERS)
def test_the_filter_answers_every_number_as_its_lists_say(machine, own_root) -> None:
    """An interpreter of the few instructions used, over all numbers and some arguments."""
    code = syscall_filter.assemble(report=True, own_root=own_root, machine=machine)
    code = code.replace(b"\x0c\xb0\xce\x7a", (77).to_bytes(4, "little"))
    known = numbers(machine)
    conditional = {"fcntl", "ioctl", "prctl", "prlimit64", "kill", "tgkill", "clone"}
    allowed = {*syscall_filter.ALLOWED.split()}
    if own_root:
        allowed |= {*syscall_filter.ALLOWED_IN_OWN_ROOT.split()}
    fatal = {*syscall_filter.FATAL.split()}
    assert not allowed & fatal
    assert not (allowed | fatal) & conditional
    names = {number: name for name, number in known.items()}
    for number in range(600):
        name = names.get(number, "")
        answer = decide(code, machine, number, (99999, 99999))
        if name in allowed:
            assert answer == syscall_filter.ALLOW, name
        elif name in fatal:
            assert answer == syscall_filter.KILL_PROCESS, name
        elif name in syscall_filter.UNKNOWN:
            assert answer == syscall_filter.ERROR | 38, name
        else:
            assert answer == syscall_filter.REPORT, name or number
    thread = 0x3D0F00
    for name, arguments, is_allowed in [
        ("clone", (thread, 0), True), ("clone", (17, 0), False),
        ("clone", (thread | 0x10000000, 0), False), ("clone", (thread | 0x20000, 0), False),
        ("kill", (77, 9), True), ("kill", (1, 9), False), ("kill", (0xFFFFFFFF, 9), False),
        ("tgkill", (77, 78), True), ("tgkill", (1, 1), False),
        ("prlimit64", (0, 9), True), ("prlimit64", (77, 9), True), ("prlimit64", (1, 9), False),
        ("fcntl", (3, 1030), True), ("fcntl", (3, 1031), False), ("fcntl", (3, 8), False),
        ("ioctl", (0, 0x5401), True), ("ioctl", (0, 0x5412), False),
        ("prctl", (15, 0), True), ("prctl", (38, 0), False), ("prctl", (22, 2), False),
    ]:  # fmt: skip
        answer = decide(code, machine, known[name], arguments)
        expected = syscall_filter.ALLOW if is_allowed else syscall_filter.REPORT
        assert answer == expected, (name, arguments)
    other = "aarch64" if machine == "x86_64" else "x86_64"
    assert decide(code, other, known["read"], (0, 0)) == syscall_filter.KILL_PROCESS
    assert decide(code, machine, 0x40000000, (0, 0)) == syscall_filter.KILL_PROCESS


def decide(code: bytes, machine: str, number: int, arguments: tuple[int, int]) -> int:
    """What the kernel would answer."""
    words = {0: number, 4: syscall_filter.AUDIT_ARCHITECTURE[machine]}
    words |= {16: arguments[0], 24: arguments[1]}
    place = value = 0
    while True:
        operation = int.from_bytes(code[place : place + 2], "little")
        then, otherwise = code[place + 2], code[place + 3]
        k = int.from_bytes(code[place + 4 : place + 8], "little")
        place += 8
        if operation == syscall_filter.RETURN:
            return k
        if operation == syscall_filter.LOAD:
            value = words[k]
            continue
        holds = {
            syscall_filter.EQUAL: value == k,
            syscall_filter.AT_LEAST: value >= k,
            syscall_filter.ABOVE: value > k,
            syscall_filter.ANY_BIT: bool(value & k),
        }[operation]
        place += 8 * (then if holds else otherwise)
