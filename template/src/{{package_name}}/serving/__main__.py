"""Print and check the configuration: `python -m PACKAGE.serving [--quiet]`.

Prints the variables in effect, one per line, secrets masked. Exits with status 0, or with 3 and
one line per fault on stderr.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

from pydantic_settings import NoDecode

from . import secret_files
from .observability.masking import Mask
from .process import environment
from .settings import STARTUP_FAILURE, Environment, ServingSettings, load, variable

MASK = "**********"
# Whole words: MONKEY is not a key.
SECRET_NAME = re.compile(
    r"(?:\b|_)(?:pass(?:word|wd|phrase)?|pwd|secrets?|tokens?|credentials?|(?:api)?keys?)(?:\b|_)",
    re.IGNORECASE,
)
URL_CREDENTIALS = re.compile(r"(?<=://)\S+(?=@)")
DSN_CREDENTIALS = re.compile(
    r"((?:password|passwd|pwd|secret|token|key)=)('[^']*'|[^\s&;,]+)", re.IGNORECASE
)


def main() -> None:
    """Print the configuration and its faults; exit with 0, or with 3 if there is a fault."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="Print the configuration in effect, secrets masked, and check it.",
    )
    parser.add_argument("--quiet", action="store_true", help="print faults only")
    quiet = parser.parse_args().quiet

    settings = load(settings_class())
    faults = [*environment.faults(settings)]
    if settings.environment is Environment.PRODUCTION:
        faults += missing_modules()
    if not quiet:
        print(*effective(settings), *remarks(type(settings)), sep="\n")
    for fault in faults:
        print(fault, file=sys.stderr)
    raise SystemExit(STARTUP_FAILURE if faults else 0)


def settings_class() -> type[ServingSettings]:
    """Return `Settings` of the service's settings.py, or `ServingSettings` if there is none.

    Exits with status 3 and one line if the module cannot be imported.
    """
    module = f"{__package__.rpartition('.')[0]}.settings"
    if find_spec(module) is None:
        return ServingSettings
    try:
        settings = getattr(import_module(module), "Settings", None)
    except Exception as error:
        print(f"{module} can't be imported: {type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(STARTUP_FAILURE) from None
    if isinstance(settings, type) and issubclass(settings, ServingSettings):
        return settings
    return ServingSettings


def missing_modules() -> Iterator[str]:
    """Yield a line for each optional part of uvicorn that cannot be imported."""
    for module in ("uvloop", "httptools"):
        try:
            import_module(module)
        except ImportError as error:
            yield f"ENVIRONMENT=production needs {module}: {error}: install uvicorn[standard]"


def effective(settings: ServingSettings) -> Iterator[str]:
    """Yield `NAME=value` lines: first the settings, then the variables that the server reads."""
    values = settings.model_dump(mode="json", fallback=str)
    log_mask = Mask(settings.log_masked, secret_files.secrets(settings))
    in_files = secret_files.fields(type(settings))
    for name, field in type(settings).model_fields.items():
        alias = field.validation_alias
        label = alias.upper() if isinstance(alias, str) else variable(type(settings), (name,))
        value = values[name] and log_mask.values({label: values[name]})[label]
        value = MASK if name in in_files else masked(label, value)
        if NoDecode in field.metadata and isinstance(value, list):  # comma-separated, not JSON
            value = ",".join(map(str, value))
        yield f"{label}={as_line(value)}"
    for label, value in environment.variables().items():
        yield f"{label}={value}"
    yield f"{secret_files.VARIABLE}={secret_files.directory() or ''}"


def remarks(settings: type[ServingSettings]) -> Iterator[str]:
    """Yield a comment for each file that has no effect."""
    for name, file in secret_files.files():
        if secret_files.field_of(settings, name) is None:
            yield f"# {file}: no setting has this name"
        elif {name, name.upper(), name.lower()} & os.environ.keys():
            yield f"# {file}: not read, the environment sets {name.upper()}"


def masked(name: str, value: object) -> object:
    """Return `value` with secrets masked: those with a secret's name, and credentials in URLs."""
    if value and SECRET_NAME.search(name):
        return MASK
    if isinstance(value, dict):
        return {key: masked(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked(name, inner) for inner in value]
    if isinstance(value, str):
        return DSN_CREDENTIALS.sub(rf"\1{MASK}", URL_CREDENTIALS.sub(MASK, value))
    return value


def as_line(value: object) -> str:
    """Return `value` in one line, in the form that the environment variable has."""
    if value is None:
        return ""
    if isinstance(value, str) and value.isprintable():
        return value
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main()
