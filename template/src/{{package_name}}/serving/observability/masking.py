"""Masking of credentials in log lines."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "***"
# `scheme://user:password@host`: the user stays, the password does not.
URL_PASSWORD = re.compile(r"(?<=://)([^\s/@:]*):[^\s/@]+(?=@)")
# `Bearer eyJhbGci…` without a name before it.
CREDENTIALS = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)


class Mask:
    """Hides the values of names that must not be logged, and credentials in URLs and headers.

    A name also stands for those that end with it: `token` for `refresh_token`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        either = "|".join(re.escape(name).replace("_", "[-_]?") for name in names) or r"(?!)"
        self._name = re.compile(rf".*(?:{either})", re.IGNORECASE | re.DOTALL)
        # `name=value`, `name: value`, `"name": "value"`, `(b'name', b'value')`; not a parser's
        # "unexpected token: '}'".
        before = rf"""(?<!expected\s)((?:{either})(?:\\?["'])?\s*[=:]\s*|(?:{either})["'],\s*)"""
        quoted = r"""b?"(?:[^"\\]|\\.)*"|b?'(?:[^'\\]|\\.)*'|\\"[^"\\]*\\\""""
        word = r"""[^\s"',;&)}\]]+"""
        bare = rf"(?:(?:basic|bearer|digest|token)\s+)?{word}(?:;\s*[^\s=;,]+={word})*"
        self._pair = re.compile(f"{before}(?:{quoted}|{bare})", re.IGNORECASE)

    def text(self, text: str) -> str:
        """Return the text with credentials masked."""
        text = URL_PASSWORD.sub(rf"\1:{MASK}", self._pair.sub(rf"\1{MASK}", text))
        return CREDENTIALS.sub(rf"\1 {MASK}", text)

    def values(self, values: Mapping[Any, Any], levels: int = 5) -> dict[Any, Any]:
        """Return the mapping with credentials masked, and what is nested too deep."""
        return {
            name: MASK if self._name.fullmatch(str(name)) else self._value(value, levels - 1)
            for name, value in values.items()
        }

    def _value(self, value: Any, levels: int) -> Any:
        match value:
            case str():
                return self.text(value)
            case Mapping() | list() | tuple() | set() if not levels:  # a circle, say
                return MASK
            case Mapping():
                return self.values(value, levels)
            case [str(name), str()] if self._name.fullmatch(name):  # of a list of headers
                return [name, MASK]
            case list() | tuple() | set():
                return [self._value(item, levels - 1) for item in value]
            case _:
                return value
