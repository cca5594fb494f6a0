"""What `dataforge lint` says of the set that is viewed. A thread checks it, from when somebody asks."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.analysis.lint.run import Report, lint_shards
from dataforge.errors import DataforgeError
from dataforge.record import Finding
from dataforge.shards.reader import Shards


class _ClosedError(Exception):
    pass


class Findings:
    """The findings of a set, by code and by image.

    Args:
        numbers: gives (split, key) -> record.
        report: of an earlier check, to be shown instead of checking.
    """

    def __init__(
        self, shards: Shards, numbers: Callable[[], Mapping[tuple[str, str], int]], report: Report | None = None
    ) -> None:
        self._shards, self._numbers = shards, numbers
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._done, self._error = 0, ""
        self._report: Report | None = None
        self._of_image: dict[int, list[Finding]] = {}
        self._of_code: dict[str, NDArray[np.int64]] = {}
        if report is not None:
            self._take(report)

    def start(self) -> None:
        """Start the check, unless it was."""
        with self._lock:
            if self._thread is None and not self.finished:
                self._thread = threading.Thread(target=self._check, name="lint", daemon=True)
                self._thread.start()

    def close(self) -> None:
        self._closed = True
        if self._thread is not None:
            self._thread.join()

    @property
    def finished(self) -> bool:
        return self._report is not None

    def facts(self) -> dict[str, Any]:
        """Return how far the check is, and the codes that it found."""
        facts = {"done": self._done, "total": len(self._shards), "finished": self.finished, "error": self._error}
        codes = [
            {
                "code": code,
                "severity": kind.severity,
                "meaning": kind.meaning,
                "findings": kind.count,
                "images": len(self._of_code.get(code, ())),
            }
            for code, kind in (self._report.sorted() if self._report else ())
        ]
        return facts | {"codes": codes}

    def rows(self, code: str) -> NDArray[np.int64]:
        """Return the records with a finding of this code; none before the check has ended."""
        return self._of_code.get(code, np.zeros(0, np.int64))

    def of(self, n: int) -> list[Finding]:
        return self._of_image.get(n, [])

    def _check(self) -> None:
        def progress(done: int) -> None:
            self._done = done
            if self._closed:
                raise _ClosedError

        try:
            report = lint_shards(self._shards, progress, examples=sys.maxsize)
        except _ClosedError:
            return
        except DataforgeError as error:
            self._error = str(error)
            return
        self._take(report)

    def _take(self, report: Report) -> None:
        images: dict[int, list[Finding]] = defaultdict(list)
        codes: dict[str, set[int]] = defaultdict(set)
        for code, kind in report.kinds.items():
            for finding in kind.examples:
                for n in self._images(finding):
                    images[n].append(finding)
                    codes[code].add(n)
        self._of_image = dict(images)
        self._of_code = {code: np.array(sorted(rows), np.int64) for code, rows in codes.items()}
        self._report = report

    def _images(self, finding: Finding) -> set[int]:
        """Return the records that a finding is about; findings of an ingest do not say in which split."""
        if finding.scope == "set":
            return set()
        splits = [finding.split] if finding.split is not None else list(self._shards.splits)
        places = [(split, finding.key) for split in splits] + ([finding.other] if finding.other else [])
        numbers = self._numbers()
        return {numbers[place] for place in places if place in numbers}
