"""Options that a command line gives, read strictly; each must be used or named."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from glmkd_nemo.config.strict import nearest
from glmkd_nemo.translate.option import Table


class Given(Mapping[str, Any]):
    """The given options by name, without dashes; remembers which were asked for.

    Args:
        values: strings, ``True`` for flags, lists.
        table: all options there are.
    """

    def __init__(self, values: Mapping[str, Any], table: Table) -> None:
        self._values, self._table = dict(values), table
        self._asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self._asked.add(name)
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        self._asked.add(str(name))
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def of(self, name: str) -> Any:
        """The value of an option, or the original's default; numbers as numbers."""
        self._asked.add(name)
        value = self._values.get(name, self._table[name].default)
        return number(value) if isinstance(value, str) else value

    def has(self, name: str) -> bool:
        """Whether a flag is given, or an option with a value."""
        return bool(name in self and self._values[name] not in ("", None))

    @property
    def asked(self) -> set[str]:
        """What was asked for so far."""
        return set(self._asked)

    def use(self, *names: str) -> None:
        """Says that options are taken care of."""
        self._asked.update(names)

    def notes(self, where: str) -> list[str]:
        """Of the given options that change nothing, the reason.

        Args:
            where: of what a mapped option was not asked for, e.g. "pre-training".
        """
        found: dict[str, list[str]] = {}
        for name in self._values:
            option = self._table[name]
            if option.fate != "mapped":
                found.setdefault(f"{option.fate}: {option.text}", []).append(dashed(name))
            elif name not in self._asked:
                found.setdefault(f"no effect: not used in {where}", []).append(dashed(name))
        return [f"{', '.join(options)}: {reason}" for reason, options in found.items()]


@contextmanager
def naming(given: Given) -> Iterator[None]:
    """Says of a value that is no number which option has it.

    Raises:
        ValueError: that of ``int`` or ``float``, with the option.
    """
    try:
        yield
    except ValueError as error:
        found = re.fullmatch(
            r"(invalid literal for int\(\) with|could not convert string).*: '(.*)'", str(error)
        )
        for name in given if found else ():
            text = str(dict(given)[name])
            if found and found[2] in re.split("[:,;]", text):
                raise ValueError(f"{dashed(name)}={text}: a number is expected") from error
        raise


def number(text: str) -> Any:
    """`text` as an int or a float where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def dashed(name: str) -> str:
    """The option as it is written."""
    return f"-{name}" if len(name) == 1 else f"--{name}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def read_options(
    arguments: Sequence[str], table: Table, *, rest: bool = False, near: Table | None = None
) -> tuple[Given, list[str]]:
    """The options of a table.

    Args:
        arguments: ``--a=1``, ``--a 1``, ``--b``.
        table: those there are.
        rest: hand back what is not in the table.
        near: further options that an unknown one may be meant for.

    Returns:
        Options, and what is left.

    Raises:
        ValueError: an unknown option (the nearest is suggested), a value that is missing, or a
            shell variable in place of one.
    """
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name, option in table.items():
        kinds: dict[str, dict[str, Any]] = {
            "flag": {"action": "store_true"},
            "values": {"nargs": "*"},
            "value": {},
        }
        parser.add_argument(dashed(name), dest=name, **kinds[option.kind])
    found, left = parser.parse_known_args(list(arguments))
    if left and not rest:
        raise ValueError(_unknown(left[0], {**table, **(near or {})}))
    for name, value in vars(found).items():
        if re.search(r"\$[\w{(]", str(value)):
            raise ValueError(f"{dashed(name)}={value}: write the value of the shell variable")
    return Given(vars(found), table), left


def _unknown(argument: str, table: Table) -> str:
    if not argument.startswith("-"):
        return f"{argument!r} belongs to no option: a value follows its option, --lr 1e-5"
    name = argument.partition("=")[0]
    hint = nearest(name, [dashed(known) for known in table])
    return f"the original has no option {name}{hint}"
