"""Keeping credentials out of every message.

Tokens come from the environment or from Qiskit's saved account. They are handed to no config, log,
checkpoint or exception: every text of a library's error passes through `one_line`.
"""

import os
import re

VARIABLES = ("QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE", "QISKIT_IBM_URL")
_JSON_WEB_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+(\.[\w-]*)?")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+\S+")
_NAMED = re.compile(r"(?i)(token|api_?key|password|secret)(['\"]?\s*[:=]\s*)['\"]?[^\s'\",}]+")
_LEAST = 4  # characters of a secret: shorter values would blank out words
_protected: set[str] = set()


def protect(secret: str | None) -> None:
    """Blank out `secret` in every message from now on."""
    if secret is not None:
        _protected.add(secret)


def scrub(text: str) -> str:
    """Return `text` without the known credentials and whatever looks like some."""
    secrets = _protected | {os.environ.get(name, "") for name in VARIABLES}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _LEAST:
            text = text.replace(secret, "***")
    text = _BEARER.sub(lambda match: f"{match[1]} ***", _JSON_WEB_TOKEN.sub("***", text))
    return _NAMED.sub(lambda match: f"{match[1]}{match[2]}***", text)


def one_line(error: BaseException) -> str:
    """Return an exception as one short line that can be logged."""
    text = scrub(" ".join(str(error).split()))[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
