"""The few system calls that the supervisor needs and Python 3.10 does not have. Standard library only; Linux only."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_RELATIME = 1 << 21

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_IPC_RMID = 0
# keyctl(2) by machine, and its operations and special keyrings.
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}.get(platform.machine())
_KEYCTL_JOIN_SESSION_KEYRING = 1
_KEYCTL_CLEAR = 7
_KEYCTL_GET_PERSISTENT = 22
_PROCESS_KEYRING = -2
_USER_KEYRING = -4
_USER_SESSION_KEYRING = -5
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


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Moves this process, or its children where it is CLONE_NEWPID, into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Makes this process the parent of every orphan below it."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def no_new_privileges() -> None:
    """Lets no program that is executed from here on gain rights by set-user-id bits."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def remove_ipc(facility: str, number: int) -> None:
    """Removes a System V object; one that is gone already, or another user's, stays as it is.

    Args:
        facility: "shm", "sem" or "msg".
        number: Identifier of the object.
    """
    if facility == "sem":
        _libc.semctl(number, 0, _IPC_RMID)
    else:
        getattr(_libc, f"{facility}ctl")(number, _IPC_RMID, None)


def new_session_keyring() -> None:
    """Gives this process an empty session keyring of its own, where the kernel has keyrings."""
    if _SYS_KEYCTL is not None:
        _libc.syscall(_SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None)


def clear_user_keyrings() -> None:
    """Empties the keyrings of this process's user, which outlive all processes, where the kernel has keyrings."""
    if _SYS_KEYCTL is None:
        return
    persistent = _libc.syscall(_SYS_KEYCTL, _KEYCTL_GET_PERSISTENT, -1, _PROCESS_KEYRING)
    for keyring in (_USER_KEYRING, _USER_SESSION_KEYRING, persistent):
        if keyring != -1:  # no persistent keyrings in this kernel
            _libc.syscall(_SYS_KEYCTL, _KEYCTL_CLEAR, keyring)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Calls mount(2)."""
    encoded = [os.fsencode(part) if part else None for part in (source, target, kind)]
    _check(_libc.mount(*encoded, flags, options.encode() or None), f"mount on {target}")


def remount(target: str, flags: int) -> None:
    """Changes the flags of one mount, not of the file system behind it."""
    mount(None, target, None, MS_REMOUNT | MS_BIND | flags)


def mount_flags() -> Iterator[tuple[str, int]]:
    """Yields (mount point, its flags but for read-only) of every mount of this process, outermost first."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split(" ")
            # Spaces and the like stand there as octal numbers.
            point = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")
            yield os.fsdecode(point), sum(_MOUNT_FLAGS.get(option, 0) for option in fields[5].split(","))
