"""Settings from files, for secrets: a file is named after its variable and contains the value."""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import AliasChoices, AliasPath, BaseModel, SecretStr
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from .process.secret_directory import NAME_PREFIX, VARIABLES

VARIABLE = VARIABLES[0]


class SecretFiles(EnvSettingsSource):
    """Reads files like environment variables: with the same names, lists and nesting.

    One trailing newline is not part of the value. Raises `SettingsError` with one line per fault,
    none of which contains a value.
    """

    def __init__(self, settings: type[BaseSettings]) -> None:
        super().__init__(settings)
        values: dict[str, str] = {}
        faults = []
        for name, file in files():
            variable = name if self.case_sensitive else name.lower()
            if field_of(settings, variable) is None:
                continue
            try:
                if variable in values:
                    raise ValueError("exists twice: keep one")
                values[variable] = value(file)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                faults.append(f"{name.upper()}: {file}: {reason}")
        if faults:
            raise SettingsError("\n".join(faults))
        self.env_vars = values


def directory() -> Path | None:
    """Return the directory of the files, or None if no variable sets one."""
    return next((Path(os.environ[name]) for name in VARIABLES if os.environ.get(name)), None)


def files() -> list[tuple[str, Path]]:
    """Return each file with the name of its variable; hidden files are skipped.

    Raises `SettingsError` if the directory can't be read.
    """
    path = directory()
    if path is None:
        return []
    try:
        paths = sorted(path.iterdir())
    except OSError as error:
        raise SettingsError(f"{VARIABLE}: {path}: {error.strerror}") from None
    return [(file.name.removeprefix(NAME_PREFIX), file) for file in paths if file.name[0] != "."]


def value(file: Path) -> str:
    """Return the value in a file. Raises `OSError` or `ValueError`, whose text is the reason."""
    if not file.is_file():
        raise ValueError("is not a file")
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ValueError("is empty")
    return text


def field_of(settings: type[BaseSettings], variable: str) -> str | None:
    """Return the name of the field that a variable sets, completely or in part; else None."""
    variable, delimiter = variable.lower(), settings.model_config.get("env_nested_delimiter")
    for field, name in variables(settings):
        if variable == name or (delimiter and variable.startswith(f"{name}{delimiter}")):
            return field
    return None


def fields(settings: type[BaseSettings]) -> set[str | None]:
    """Return the names of fields that files set, including those the environment overrides."""
    return {field_of(settings, name) for name, _ in files()}


def secrets(settings: BaseSettings) -> Iterator[str]:
    """Yield values that must not be logged: those of secret types, and strings from files."""
    in_files = fields(type(settings))
    for name in type(settings).model_fields:
        yield from _secrets(getattr(settings, name), name in in_files)


def _secrets(value: object, in_file: bool) -> Iterator[str]:
    match value:
        case SecretStr():
            yield value.get_secret_value()
        case BaseModel():
            for _, inner in value:
                yield from _secrets(inner, in_file)
        case dict():
            for inner in value.values():
                yield from _secrets(inner, in_file)
        case list() | tuple():
            for inner in value:
                yield from _secrets(inner, in_file)
        case _ if in_file and type(value) is str:  # not an enum
            yield value


def variables(settings: type[BaseSettings]) -> Iterator[tuple[str, str]]:
    """Yield pairs of a field and a variable that sets it, in lower case."""
    prefix = settings.model_config.get("env_prefix", "")
    for field, info in settings.model_fields.items():
        alias = info.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        names = [str(c.path[0]) if isinstance(c, AliasPath) else c for c in choices]
        for name in (f"{prefix}{field}", *filter(None, names)):
            yield field, name.lower()
