"""Users and groups by name or number, as the configuration names them."""

from __future__ import annotations

from agent.secrets.errors import PublishError


def uid_of(name: str | None) -> int | None:
    """The number of a user; None for none.

    Raises:
        PublishError: this machine knows no such user.
    """
    if name is None or name.isdigit():
        return None if name is None else int(name)
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise _unknown("user", name) from None


def gid_of(name: str | None) -> int | None:
    """The number of a group; as `uid_of`."""
    if name is None or name.isdigit():
        return None if name is None else int(name)
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise _unknown("group", name) from None


def _unknown(what: str, name: str) -> PublishError:
    return PublishError(
        f"this machine knows no {what} {name}", "a container knows few names: give the number"
    )
