from pydantic import Field
from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    greeting: str = "hello"
    tickets_max: int = Field(default=100, alias="DESK_TICKETS_MAX")
