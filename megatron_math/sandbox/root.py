"""The file system of a snippet: a root of its own, made of read-only pieces of this machine's.

It holds the standard library, the folders of the shared objects that Python needs, the packages
that were asked for, three devices and two lines of /etc. Everything stays where it is on this
machine, so that modules loaded before and after look alike. The only place to write is /tmp, a
file system in memory that is new for every snippet.
"""

import contextlib
import os
import re

from megatron_math.sandbox import kernel

# Where the new root is put together: any folder that none of its pieces lies in.
BUILDING_SITES = ("/sys", "/mnt", "/srv")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
LINKS = ("/lib", "/lib64")  # on most systems links into /usr, and known so to the loader
TEMPORARY = "/tmp"
ASIDE = "/.below_tmp"  # above packages that lie in /tmp, which hides them
FILES_IN_TEMPORARY = 1024
PASSWD = "nobody:x:65534:65534:nobody:/tmp:/none\n"
GROUP = "nogroup:x:65534:\n"

MOUNT_FLAGS = {
    "ro": kernel.MS_RDONLY,
    "nosuid": kernel.MS_NOSUID,
    "nodev": kernel.MS_NODEV,
    "noexec": kernel.MS_NOEXEC,
    "noatime": kernel.MS_NOATIME,
    "nodiratime": kernel.MS_NODIRATIME,
    "relatime": kernel.MS_RELATIME,
}


def library_folders() -> list[str]:
    """Where the shared objects of this process lie."""
    with open("/proc/self/maps") as maps:
        rows = [line.split(maxsplit=5) for line in maps]
    files = {row[5].rstrip("\n") for row in rows if len(row) == 6}
    found = {os.path.dirname(name) for name in files if re.search(r"\.so(\.|$)", name)}
    return sorted(folder for folder in found if os.path.isdir(folder))


def build_and_enter(folders: list[str], hidden: list[str], packages: list[str]) -> None:
    """Make the root of this mount namespace: `folders` and `packages`, without what is `hidden`.

    folders: with all below them. hidden: folders below those that stay empty, but for packages.
    """
    if below := [folder for folder in folders if _within([folder], TEMPORARY)]:
        raise OSError(f"{below[0]} lies in {TEMPORARY}, which is new for each snippet")
    site = next((p for p in BUILDING_SITES if os.path.isdir(p) and not _within(folders, p)), None)
    if site is None:
        raise OSError(f"none of {', '.join(BUILDING_SITES)} can hold the new root")
    covered = {row[0] for row in _mounts()}
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    quiet = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("root", site, "tmpfs", quiet, "size=1m,nr_inodes=4k,mode=755")
    for folder in folders:
        _show(folder, site)
    for folder in hidden:
        if os.path.isdir(site + folder):
            kernel.mount("none", site + folder, "tmpfs", quiet, "size=64k,mode=755")
    for package in packages:
        _show(package, site)
        _show(package, site, seen_at(package))
    for link in LINKS:
        if os.path.islink(link) and not os.path.lexists(site + link):
            os.symlink(os.readlink(link), site + link)
    os.makedirs(site + TEMPORARY, exist_ok=True)
    _write(site + "/etc/passwd", PASSWD)
    _write(site + "/etc/group", GROUP)
    for device in DEVICES:
        _write(site + device, "")
    _make_read_only([row for row in _mounts() if row[0] not in covered])
    for device in DEVICES:
        with contextlib.suppress(OSError):
            kernel.mount(device, site + device, None, kernel.MS_BIND)
    kernel.enter_root(site)


def seen_at(package: str) -> str:
    """Where a snippet finds a package: at its own path, or aside where that lies in /tmp."""
    return ASIDE + package if _within([package], TEMPORARY) else package


def renew_temporary(size_bytes: int, *, first: bool) -> None:
    """Put a new, empty file system at /tmp, in place of the last snippet's."""
    if not first:
        kernel.unmount(TEMPORARY)
    options = f"size={size_bytes},nr_inodes={FILES_IN_TEMPORARY},mode=1777"
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("tmp", TEMPORARY, "tmpfs", flags, options)


def _within(paths: list[str], folder: str) -> bool:
    return any(path == folder or path.startswith(folder + "/") for path in paths)


def _show(path: str, site: str, at: str = "") -> None:
    """Bind a file or folder at its own path (or `at`) below `site`, unless it is seen there."""
    target = site + (at or path)
    if os.path.exists(target):
        return
    if os.path.isdir(path):
        os.makedirs(target)
    else:
        _write(target, "")
    kernel.mount(path, target, None, kernel.MS_BIND | kernel.MS_REC)


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def _mounts() -> list[list[str]]:
    """Rows of the kernel's table of mounts: number, ..., mount point at 4, flags at 5."""
    with open("/proc/self/mountinfo") as table:
        return [line.split() for line in table]


def _make_read_only(mounts: list[list[str]]) -> None:
    """Each by itself: a flag on a folder does not hold for the mounts below it."""
    for row in mounts:
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), row[4])
        kept = sum(MOUNT_FLAGS.get(word, 0) for word in row[5].split(","))
        wanted = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
        flags = kernel.MS_REMOUNT | kernel.MS_BIND | kept | wanted
        kernel.mount("none", point, None, flags)
