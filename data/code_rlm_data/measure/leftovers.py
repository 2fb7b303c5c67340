"""Removes what a run leaves outside its folder, so that nothing passes from one program to the next.

Namespaces take most of it with them when a run ends. Where the kernel gives none, and for what no namespace holds, it is
removed by its owner. Standard library only.
"""

from __future__ import annotations

import os
import shutil

import kernel
from procfs import sysv_objects

TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
# Where any user can leave files.
_OPEN_TO_ALL = (*TEMPORARY, "/run/lock")
_FACILITIES = ("shm", "sem", "msg")
# Columns of /proc/sysvipc with processes that made or used an object.
_USERS_OF = {"shm": ("cpid", "lpid"), "sem": (), "msg": ("lspid", "lrpid")}


class Leftovers:
    """What one run may leave. Create it before the run, call `remove` when all of the run's processes have ended.

    Args:
        user: User id that is the runs' own, or None where programs run as the caller.
        own_files: Whether the folders for temporary files are the run's own.
        own_keys: Whether the keyrings of the program's user are the runs' own.
    """

    def __init__(self, user: int | None, *, own_files: bool, own_keys: bool) -> None:
        self.user = user
        self.own_files = own_files
        self.own_keys = own_keys
        self.before = {facility: {each["id"] for each in sysv_objects(facility)} for facility in _FACILITIES}

    def remove(self) -> None:
        """Removes IPC objects, files and keys that the run left."""
        for facility in _FACILITIES:
            self._remove_ipc(facility)
        if not self.own_files and self.user is not None:
            for folder in filter(os.path.isdir, _OPEN_TO_ALL):
                self._remove_files(folder)
        if self.own_keys:
            self._clear_keys()

    def _remove_ipc(self, facility: str) -> None:
        """Removes the System V objects that the run's user made since the run began.

        Where that user is the caller, objects that a living process made or used last are another program's, and stay.
        """
        owner = os.getuid() if self.user is None else self.user
        for each in sysv_objects(facility):
            if each["id"] in self.before[facility] or each["cuid"] != owner:
                continue
            in_use = any(os.path.exists(f"/proc/{each[column]}") for column in _USERS_OF[facility] if each[column])
            if self.user is not None or not in_use:
                kernel.remove_ipc(facility, each["id"])

    def _remove_files(self, folder: str) -> None:
        for entry in os.scandir(folder):
            try:
                if entry.stat(follow_symlinks=False).st_uid != self.user:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)
            except FileNotFoundError:
                continue

    def _clear_keys(self) -> None:
        """Empties the user's keyrings, in a process of that user."""
        child = os.fork()
        if child == 0:
            try:
                if self.user is not None:
                    os.setresuid(self.user, self.user, self.user)
                kernel.clear_user_keyrings()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
