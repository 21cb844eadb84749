from typing import Optional

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="BOOKS_", env_file=".env")

    database_url: str
    api_key: str
    log_level: int = 20
    greeting: Optional[str] = None


settings = Settings()
