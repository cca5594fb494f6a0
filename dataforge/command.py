"""Click's commands, options and numbers as every command of this project has them.

Exit codes: 0 fine; 1 findings, or a difference; 2 trouble: a wrong option, file or record, or a bug; 130 interrupted;
141 the reader of stdout has ended, as `head` does.
Trouble is one line on stderr; with `--json`, also an object `{"error": ...}` on stdout.
"""

from __future__ import annotations

import difflib
import errno
import functools
import inspect
import io
import json
import math
import operator
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from dataforge import interrupt
from dataforge.errors import ConfigError, DataforgeError, StoppedError, is_utf8, line_safe, plain, without_extra

TROUBLE = DataforgeError.exit_code
PIPE_CLOSED = 141  # as of a program that SIGPIPE ends; click's 1 would be findings
NEAR = 0.75  # similarity from which on an option is suggested for one that does not exist
_JOINED = re.compile("\u200d[\u2190-\u2bff\U0001f000-\U0001faff]|[\U0001f3fb-\U0001f3ff]")  # to an emoji: parts, skins
BOUNDS = {
    "above": ("above", operator.gt),
    "least": ("of at least", operator.ge),
    "below": ("below", operator.lt),
    "most": ("at most", operator.le),
}


class Number(click.ParamType):
    """A number in a range. nan is in none, and infinity only where `infinite`.

    Args:
        kind: int or float.
        bounds: any of "above", "least", "below" and "most".
    """

    def __init__(self, kind: type[int] | type[float], *, infinite: bool = False, **bounds: float) -> None:
        self.kind, self.bounds, self.infinite = kind, bounds, infinite
        self.name = "integer" if kind is int else "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = self.kind(value)
        except ValueError:
            number = math.nan
        finite = math.isfinite(number) or (self.infinite and not math.isnan(number))
        if not finite or not all(BOUNDS[key][1](number, bound) for key, bound in self.bounds.items()):
            self.fail(f"{value!r} is not {self.expected()}", param, ctx)
        return number

    def expected(self) -> str:
        """Describe the range: "an integer of at least 1"."""
        kind = "an integer" if self.kind is int else "a number"
        bounds = " and ".join(f"{BOUNDS[key][0]} {bound}" for key, bound in self.bounds.items())
        return f"{kind} {bounds}".strip()


def natural(least: int = 1, most: float = math.inf) -> Number:
    """Return the type of whole numbers from `least` to `most`."""
    return Number(int, least=least) if most == math.inf else Number(int, least=least, most=most)


def real(*, infinite: bool = False, **bounds: float) -> Number:
    """Return the type of numbers in a range, as in `Number`."""
    return Number(float, infinite=infinite, **bounds)


def is_url(path: str | Path) -> bool:
    """Return whether a path is a URL, in which a `Path` makes one slash of two. `C:/x` is none."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.]+:/", os.fspath(path)))


class LocalPath(click.Path):
    """A file or folder of this machine, to write. A URL would be a folder named `s3:`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if is_url(value):
            self.fail(f"{str(value)!r} is a URL; expected a path of this machine", param, ctx)
        return super().convert(value, param, ctx)


class OutFile(LocalPath):
    """A file that the command writes in the end. Whether it can is checked before the work."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path, code = Path(super().convert(value, param, ctx)), 0
        if not path.parent.is_dir():
            code = errno.ENOENT
        elif path.is_dir():
            code = errno.EISDIR
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            code = errno.EACCES
        if code:
            option = param.opts[0] if param else path.name
            raise ConfigError(f"{option} {path}: cannot be written: {os.strerror(code)}")
        return path


class Option(click.Option):
    """An option that help lists under a heading: `@click.option(..., cls=Option, group="Data")`."""

    def __init__(self, *args: Any, group: str = "Options", **how: Any) -> None:
        super().__init__(*args, **how)
        self.group = group


class Command(click.Command):
    """A command with `-h`, options in groups, errors in one line, and the exit codes above."""

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        return ["-h", "--help"]

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        run = super().main
        if not standalone_mode:
            return run(args, prog_name, complete_var, standalone_mode=False, **extra)
        interrupt.heard()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # also in a file, each line is seen at once
                stream.reconfigure(line_buffering=True, errors="backslashreplace")
        try:
            code: Any = run(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.exit(code if isinstance(code, int) else 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(TROUBLE)
        except DataforgeError as error:
            text, code, facts = str(error), error.exit_code, error.facts
        except click.ClickException as error:
            text, code, facts = _message(error), TROUBLE, {}
        except click.Abort:
            text, code, facts = "interrupted", StoppedError.exit_code, {}
        except Exception as error:
            text, code, facts = without_extra(error) or _name_of_other_bytes(error), TROUBLE, {}
            if not text and args is not None:  # called from Python
                raise
            if not text:
                traceback.print_exc()
                sys.exit(TROUBLE)
        if sys.stdout and "--json" in (sys.argv if args is None else args):
            with suppress(DataforgeError):  # what cannot be printed is told on stderr
                echo_json({"error": text, **facts})
        echo(f"error: {text}" if code == TROUBLE else text, err=True)
        sys.exit(code)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                groups.setdefault(getattr(param, "group", "Options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


class Group(Command, click.Group):
    """A command with subcommands, listed with the whole first paragraph of their help."""

    command_class = Command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            subcommand = self.get_command(ctx, name)
            assert subcommand is not None
            paragraph = inspect.cleandoc(subcommand.help or "").partition("\n\n")[0]
            rows.append((name, " ".join(paragraph.split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


command = functools.partial(click.command, cls=Command)


def invocation() -> dict[str, Any]:
    """Return the running command and the values that were given to it, for JSON. Paths are absolute."""
    context = click.get_current_context()
    given = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    return {"command": context.info_name, "given": {name: _plain(value) for name, value in given.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    is_json = isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_json else str(value)


def echo(text: object, err: bool = False) -> None:
    """Print text in which names from files may stand, on stdout or stderr, as `plain`.

    Raises:
        ConfigError: stdout cannot be written, such as a file on a full disk.
        SystemExit: stdout is a closed pipe.
    """
    try:
        click.echo(plain(str(text)), err=err)
    except OSError as error:
        if err:
            raise
        sys.stdout = None  # type: ignore[assignment]  # else Python tries again when it ends
        if error.errno == errno.EPIPE:
            sys.exit(PIPE_CLOSED)
        raise ConfigError(f"standard output: cannot be written: {error.strerror}") from None


def _name_of_other_bytes(error: Exception) -> str:
    """Return a message on the name of a file that a library or UTF-8 text cannot hold; "" for other errors."""
    if isinstance(error, UnicodeEncodeError) and not is_utf8(error.object):
        return f"{error.object}: the name of a file is not UTF-8; rename it, or its folder"
    return ""


def columns(rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows of cells, as `echo` shows them, in columns of characters; the first is left-aligned."""
    cells = [[line_safe(str(cell)) for cell in row] for row in rows]
    wide = [max(map(width, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        gaps = [" " * (w - width(cell)) for w, cell in zip(wide, (first, *others), strict=True)]
        lines.append("  ".join([first + gaps[0], *(gap + cell for gap, cell in zip(gaps[1:], others, strict=True))]))
    return "\n".join(lines)


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a Chinese letter or an emoji, none for an accent."""
    seen = [letter for letter in _JOINED.sub("", text) if unicodedata.category(letter) not in ("Mn", "Me", "Cf")]
    return len(seen) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in seen)


def echo_json(facts: Mapping[str, Any]) -> None:
    """Print the one JSON object of a command's `--json`."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    echo(json.dumps(facts, ensure_ascii=not unicode, allow_nan=False))


def _message(error: click.ClickException) -> str:
    """Return click's message, with the command whose help has more; suggest only options that are spelt alike."""
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        near = difflib.get_close_matches(error.option_name, error.possibilities, cutoff=NEAR)
        error = click.NoSuchOption(error.option_name, possibilities=near, ctx=error.ctx)
    message = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx:
        has_lists = any("," in param.type.name for param in error.ctx.command.params)
        if has_lists and message.startswith("Got unexpected extra argument"):  # --size 320 416
            message += "; a list is one word with commas, such as 320,416"
        end = "" if message.endswith(("?", ".")) else "."
        message = f"{message}{end} See `{error.ctx.command_path} --help`."
    return message
