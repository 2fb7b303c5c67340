"""The few system calls that the warden needs and Python 3.10 does not have. Standard library only; Linux only."""

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MS_NOATIME, MS_NODIRATIME, MS_RELATIME = 1024, 2048, 1 << 21

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_MOUNT_FLAGS = {
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "relatime": MS_RELATIME,
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def _check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags):
    """Move this process, or its children where it is CLONE_NEWPID, into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def die_with_parent():
    """Have the kernel kill this process when its parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")


def adopt_orphans():
    """Become the parent of every orphan below this process."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def no_new_privileges():
    """Let no program that is executed from here on gain rights by set-user-id bits."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def mount(source, target, kind, flags, options=""):
    """mount(2)."""
    encoded = [os.fsencode(part) if part else None for part in (source, target, kind)]
    _check(_libc.mount(*encoded, flags, options.encode() or None), f"mount on {target}")


def remount(target, flags):
    """Change the flags of one mount, not of the file system behind it."""
    mount(None, target, None, MS_REMOUNT | MS_BIND | flags)


def mount_flags():
    """Yield (mount point, its flags but for read-only) of every mount of this process, outermost first."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split(" ")
            # Spaces and the like stand there as octal numbers.
            point = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")
            yield os.fsdecode(point), sum(_MOUNT_FLAGS.get(option, 0) for option in fields[5].split(","))
