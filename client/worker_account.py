"""What the account that holds the key shares with the one that trains, `worker` in site.yaml; it shares nothing else.

Images and index to read, the work folder to write, and the secret with which the worker asks the node for work. Key,
pseudonyms, audit log and approvals stay with the node's account, and `check_apart` refuses to train where they do not.
"""

import grp
import os
import secrets
from pathlib import Path

from client.keys import key_files
from client.kit_place import NAME as KIT
from client.pseudonyms import FILE_NAME as PSEUDONYMS
from common.atomic import write_bytes_atomically
from common.dataset import INDEX_NAME, read_index
from common.errors import ConfigError, SiteError
from common.private import closed_folder, private_folder, private_mode, share
from common.site_config import SiteConfig, WorkerConfig

SECRET = "node.secret"
READ, WRITE = 0o050, 0o070
SECRET_BYTES = 32


def make_folders(site: SiteConfig, folder: Path) -> None:
    """Makes the site's folders and shares those that the worker needs; so they can be mounted before any import.

    Raises:
        ConfigError: as `share_with_worker`.
    """
    closed_folder(folder / site.state)
    private_folder(folder / site.cases)
    share_with_worker(site, folder)


def share_with_worker(site: SiteConfig, folder: Path) -> None:
    """Shares imported cases and the work folder with the worker's group; without a worker, nothing is shared.

    Raises:
        ConfigError: the group does not exist here, or this account is not in it.
    """
    if site.worker is None:
        return
    group = _group_id(site.worker)
    try:
        share(private_folder(folder / site.work), group, WRITE)
        cases = folder / site.cases
        if cases.is_dir():
            share(cases, group, READ, only=_of_the_index(cases))
    except PermissionError as error:
        raise ConfigError(
            f"worker.group: {error.filename} cannot be given to group {site.worker.group!r}; make this account own the "
            "folder and a member of the group, then log in anew"
        ) from error


def make_secret(work: Path) -> Path:
    """Returns the file of the secret between node and worker in the work folder, made if there is none."""
    path = work / SECRET
    if not path.exists():
        write_bytes_atomically(path, secrets.token_bytes(SECRET_BYTES), private_mode(work) & ~0o020)
    return path


def check_apart(site: SiteConfig, config: Path) -> None:
    """Returns if this account can neither reach what the node keeps nor change it, its site.yaml or its cases.

    Raises:
        SiteError: it can; the first such path is named.
    """
    folder = config.parent
    cases, state, key = folder / site.cases, folder / site.state, key_files(site.site, folder / "keys").private
    forbidden = [(key, os.R_OK), (cases / PSEUDONYMS, os.R_OK), (state, os.X_OK)]
    above = (cases.parent, state.parent, (folder / site.work).parent)  # who may write there can put others in place
    forbidden += [(path, os.W_OK) for path in (cases, folder, *above, config, folder / KIT, key.parent)]
    done = {os.R_OK: "read", os.X_OK: "enter", os.W_OK: "write"}
    for path, access in forbidden:
        if os.access(path, access):
            raise SiteError(
                f"{path}: the account that trains can {done[access]} it; expected another account than the node's, in "
                f"group {site.worker.group if site.worker else '?'} and without rights of its own; run "
                "`fedgtv-site work` as that account"
            )


def _of_the_index(cases: Path) -> tuple[str, ...]:
    """The index and every case in it, by their names in the cases' folder."""
    if not (cases / INDEX_NAME).exists():
        return ()
    return (INDEX_NAME, *(entry.case_id for entry in read_index(cases)))


def _group_id(worker: WorkerConfig) -> int:
    if worker.group.isdigit():
        return int(worker.group)
    try:
        return grp.getgrnam(worker.group).gr_gid
    except KeyError as error:
        raise ConfigError(
            f"worker.group: {worker.group!r} is no group of this machine; make it (groupadd), with both accounts in it"
        ) from error
