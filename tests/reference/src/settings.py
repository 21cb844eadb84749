"""The service's own settings, in addition to those of the serving layer."""

from pathlib import Path

from pydantic import SecretStr

from .serving import ServingSettings


class Settings(ServingSettings):
    """Add a field here and set it in the environment under the same name, in upper case."""

    api_token: SecretStr | None = None  # None: routes that need it answer 401
    signature_key: SecretStr | None = None  # None: signatures are not looked at
    database_file: Path = Path("/tmp/ledger.db")  # noqa: S108
    rates_url: str = "http://127.0.0.1:8000/static/rates.json"
    sentry_dsn: str | None = None
    record_spans: bool = False
