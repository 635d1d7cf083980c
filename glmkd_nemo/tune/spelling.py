"""Values as Hydra reads them on a command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_/.][\w/.:@%+-]*")
_SPECIAL = {"null", "true", "false", "nan", "inf", "none"}


def spell(value: Any) -> str:
    """`value` in Hydra's grammar of overrides; what Hydra would read as another type is quoted.

    Raises:
        ValueError: a value that has no such form.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(spell(entry) for entry in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{spell(entry)}' for key, entry in value.items())}}}"
    if not isinstance(value, str):
        raise ValueError(f"{value!r} cannot be an override")
    if _PLAIN.fullmatch(value) and value.lower() not in _SPECIAL:
        return value
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", value)
    tail = re.search(r"\\*$", escaped)
    return f"'{escaped}{tail[0] if tail else ''}'"
