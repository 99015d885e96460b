"""The ways to log in, one file each, behind `LoginMethod`."""

from __future__ import annotations

from agent.configbackends import VaultAuth
from agent.secrets.providers.vault.session import LoginMethod


def method_for(auth: VaultAuth) -> LoginMethod:
    """The login that `auth` describes; only its module is imported."""
    if auth.method == "approle":
        from agent.secrets.providers.vault.methods.approle import AppRoleLogin

        return AppRoleLogin(
            auth.mounted_at,
            role_id=auth.role_id,
            role_id_file=auth.role_id_file,
            secret_id_file=auth.secret_id_file,
            wrapped=auth.wrapped,
        )
    if auth.method in ("kubernetes", "jwt"):
        from agent.secrets.providers.vault.methods.jwt import JwtLogin

        return JwtLogin(auth.mounted_at, auth.role, auth.jwt_path)
    if auth.method == "aws":
        from agent.secrets.providers.vault.methods.aws import AwsLogin

        return AwsLogin(auth.mounted_at, auth.role, auth.server_id)
    from agent.secrets.providers.vault.methods.token import TokenFile

    assert auth.token_file is not None  # the configuration demands it
    return TokenFile(auth.token_file, wrapped=auth.wrapped)
