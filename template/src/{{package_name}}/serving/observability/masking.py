"""Masking of credentials in log lines."""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

MASK = "***"
# `scheme://user:password@host`: only the password is masked. If there are several @, the last one
# is the separator, as in `urllib`.
URL_PASSWORD = re.compile(r"(?<=://)([^\s/@:]*):([^\s/]+)(?=@)")
# Input values in pydantic's errors and warnings.
INPUT = re.compile(r"(?<=\binput_value=).*?(?=, input_type=)", re.DOTALL)
# The detail of a server's error, which contains values: `DETAIL:  Key (email)=(…) already exists.`
DETAIL = re.compile(r"(?<=\bDETAIL:  )[^\n]+")
# Shorter secrets, or lines of one, are not masked: they may be ordinary words.
SECRET_LENGTH = 8
# `Bearer eyJhbGci…` without a name before it; not "basic authentication", "Bearer authorization".
CREDENTIALS = re.compile(
    r"\b((?i:bearer)\s+(?!(?i:authenti|authori|credential))|(?i:basic)\s+(?![A-Za-z][a-z]+\b(?![+/=])))"
    r"[A-Za-z0-9._~+/=-]{8,}"
)


class Mask:
    """Masks values of sensitive names, credentials in URLs and headers, and known secrets.

    A name also matches longer names that end with it: `token` matches `refresh_token`. Each line of
    `secrets` with 8 or more characters, and each password of a URL in it, is masked everywhere.
    """

    def __init__(self, names: Iterable[str], secrets: Iterable[str] = ()) -> None:
        lines = {line.strip() for secret in secrets for line in secret.splitlines()}
        lines |= {password for line in lines for _, password in URL_PASSWORD.findall(line)}
        lines |= {unquote(line) for line in lines} | {quote(line, safe="") for line in lines}
        masked = sorted((line for line in lines if len(line) >= SECRET_LENGTH), key=len)
        self._secret = re.compile("|".join(map(re.escape, reversed(masked))) or r"(?!)")
        pattern = "|".join(re.escape(name).replace("_", "[-_]?") for name in names) or r"(?!)"
        self._name = re.compile(rf".*(?:{pattern})", re.IGNORECASE | re.DOTALL)
        # `name=value`, `name: value`, `"name": "value"`, `(b'name', b'value')`, `name%3Dvalue`; not
        # a parser's "unexpected token: foo", "invalid token: '}'".
        before = (
            rf"""(?<!expected\s)((?:{pattern})(?:\\?["'])?\s*(?:[=:]|%3[ad])\s*|(?:{pattern})["'],\s*)"""
            r"""(?!["'][^\w"']*["'])"""
        )
        quoted = r"""b?"(?:[^"\\]|\\.)*"|b?'(?:[^'\\]|\\.)*'|\\"[^"\\]*\\\""""
        word = r"""[^\s"',;&)}\]]+"""
        bare = rf"(?:(?:basic|bearer|digest|token)\s+)?{word}(?:;\s*[^\s=;,]+={word})*"
        # `Authorization: scheme credentials`, with any scheme.
        scheme = rf"(?<=authorization:\s)[\w-]+\s+{word}"
        self._pair = re.compile(f"{before}(?:{quoted}|{scheme}|{bare})", re.IGNORECASE)

    def text(self, text: str) -> str:
        """Return the text with credentials masked."""
        text = INPUT.sub(MASK, self._secret.sub(MASK, text))
        text = DETAIL.sub(MASK, text)
        text = URL_PASSWORD.sub(rf"\1:{MASK}", self._pair.sub(rf"\1{MASK}", text))
        return CREDENTIALS.sub(rf"\1{MASK}", text)

    def values(self, values: Mapping[Any, Any], levels: int = 5) -> dict[Any, Any]:
        """Return the mapping with credentials masked; below `levels` everything is masked."""
        return {
            name: MASK if self._name.fullmatch(str(name)) else self._value(value, levels - 1)
            for name, value in values.items()
        }

    def _value(self, value: Any, levels: int) -> Any:
        match value:
            case str():
                return self.text(value)
            case Mapping() | list() | tuple() | set() if not levels:  # possibly a reference cycle
                return MASK
            case Mapping():
                return self.values(value, levels)
            case [str(name), str()] if self._name.fullmatch(name):  # an item of a list of headers
                return [name, MASK]
            case list() | tuple() | set():
                return [self._value(item, levels - 1) for item in value]
            case _:
                return value
