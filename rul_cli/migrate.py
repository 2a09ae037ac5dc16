"""``rul migrate``: a server of one's own is made ready for this version of the platform."""

from rul_cli.console import console


def migrate() -> None:
    """Bring the tables to the newest revision; first make roles and databases, where told to.

    RUL_DATABASE_URL names the owner of the tables. With RUL_DATABASE_ADMIN_URL, a superuser's, the
    roles of RUL_DATABASE_ROLES (JSON, a password by role) and the databases are made too, and the
    passwords are set. Safe to run again.
    """
    from rul_store import database
    from rul_store.provisioning import ProvisioningSettings, provision

    settings = ProvisioningSettings()
    if settings.database_admin_url is not None:
        passwords = {
            role: password.get_secret_value() for role, password in settings.database_roles.items()
        }
        provision(settings.database_admin_url.get_secret_value(), passwords)
        console.print(f"Roles: {', '.join(passwords)}.", highlight=False)
    engine = database.connect(settings.database_url.get_secret_value())
    try:
        revision = database.migrate(engine)
    finally:
        engine.dispose()
    console.print(f"The tables are at revision {revision}.", highlight=False)
