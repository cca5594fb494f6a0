"""Inject every fault at every change of every command, and print a table of outcomes.

    python -m tests.faults [--every 1] [--first 1] [--row FILE] [COMMAND ...]

After each fault: the command ended in words, or was killed; what it made is absent for every reader, or whole; the
input is unchanged; and the command, run again, makes what it makes without a fault.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

from dataforge.bench.measure import record_rows
from dataforge.formats.coco import read
from dataforge.images import synth
from dataforge.ingest.run import ingest
from tests.faults.commands import COMMANDS, Command, files
from tests.faults.inject import FAULTS, run


def prepare(given: Path) -> None:
    """Make the input of all commands: pictures, and two sets of shards, the first of several shards a split."""
    synth.write(given / "pictures", images=6)
    synth.write(given / "more", images=5, seed=1)
    ingest(read(given / "pictures"), given / "shards", shard_bytes=20_000, source_name="coco")
    ingest(read(given / "more"), given / "other", source_name="coco")


def inject(name: str, given: Path, work: Path, every: int = 1, first: int = 1) -> tuple[Counter[str], list[str]]:
    """Return the outcomes of a command by fault, and a text for each that is wrong.

    Args:
        work: an empty folder. every: take each n-th of the changes, from `first` on.
    """
    command, out = COMMANDS[name], work / "a/out"
    out.parent.mkdir()
    command.reset(out)
    whole = run(lambda: _note_imports(command, given, out), out.parent)
    assert whole.ended == "done", whole.text
    for module in (work / "imports").read_text().split():  # so that no child has to
        with suppress(Exception):
            importlib.import_module(module)
    right, source = command.result(out), files(given)
    largest = max(map(len, files(out).values()))
    places = {fault: list(range(first, whole.count + 1, every)) for fault in FAULTS}
    places["short"] = sorted({int(largest ** (n / 24)) for n in range(24)})[first - 1 :: every]  # small files, too
    outcomes: Counter[str] = Counter()
    wrong = []
    for fault in FAULTS:
        for n in places[fault]:
            command.reset(out)
            ended = run(lambda: command.make(given, out), out.parent, fault, n)
            outcomes[f"{fault} {ended.ended}"] += 1
            where = f"{name}: {fault} at {n} of {whole.count}"
            if ended.ended == "undrawn" or "Traceback" in ended.text:
                wrong.append(f"{where}: {ended.text.strip().splitlines()[-1:]}")
            elif ended.ended == "done" and command.result(out) != right:
                wrong.append(f"{where}: succeeded with another result")
            elif ended.ended != "done" and not (command.is_absent(out) or command.result(out) == right):
                wrong.append(f"{where}: {ended.ended}, and left half a result that is read")
            if ended.ended == "done":
                continue
            again = run(lambda: (command.again or command.make)(given, out), out.parent)
            if again.ended != "done" and command.result(out) != right:
                wrong.append(f"{where}: again: {again.text.strip()[-200:]}")
            elif command.result(out) != right:
                wrong.append(f"{where}: again: another result")
    if files(given) != source:
        wrong.append(f"{name}: the input was changed")
    return outcomes, wrong


def _note_imports(command: Command, given: Path, out: Path) -> None:
    try:
        command.make(given, out)
    finally:
        (out.parents[1] / "imports").write_text("\n".join(sys.modules))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--every", type=int, default=1, help="take each n-th change only")
    parser.add_argument("--first", type=int, default=1, help="the first change to take")
    parser.add_argument("--row", type=Path, help="append the outcomes as rows to this file")
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=", ".join(COMMANDS))
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as root:
        prepare(Path(root, "given"))
        for name in options.commands or COMMANDS:
            work = Path(root, name.replace(" ", "-"))
            work.mkdir()
            outcomes, wrong = inject(name, Path(root, "given"), work, options.every, options.first)
            bad += len(wrong)
            print(f"{name}: {outcomes.total()} faults, {len(wrong)} wrong: {dict(outcomes)}", flush=True)
            print("".join(f"    {text}\n" for text in wrong), end="", flush=True)
            row = {"name": f"faults: {name}", "value": outcomes.total(), "unit": "faults", "wrong": len(wrong)}
            record_rows(
                [row | {"runs": 1, "outcomes": outcomes, "every": options.every, "first": options.first}], options.row
            )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
