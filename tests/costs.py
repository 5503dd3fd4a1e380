"""What the tests cost: `python -m pytest -p tests.costs` ends with processor seconds of each folder, file and test.

Processes that a test starts are counted where it waits for them or they are still there when it ends. Unlike the time
that passes, this depends little on what else the machine does.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath

import psutil
import pytest

SHOWN = {"folder": 9, "file": 30, "test": 60}
_begun: dict[str, float] = {}
_spent: Counter[str] = Counter()


def _processor_seconds() -> float:
    """Of this process, of those that it has waited for, and of those that it has started and that are still there."""
    here = psutil.Process()
    total = sum(here.cpu_times()[:4])
    for process in here.children():
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.Error:
            continue  # it has ended
    return total


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    _begun[item.nodeid] = _processor_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    try:
        return (yield)
    finally:
        item.user_properties.append(("processor_seconds", _processor_seconds() - _begun.pop(item.nodeid)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        _spent[report.nodeid] = dict(report.user_properties).get("processor_seconds", 0.0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    by: dict[str, Counter[str]] = {name: Counter() for name in SHOWN}
    for test, seconds in _spent.items():
        file = test.partition("::")[0]
        for name, key in (("folder", PurePath(file).parent), ("file", file), ("test", test)):
            by[name][str(key)] += seconds
    terminalreporter.section("processor seconds")
    for name, number in SHOWN.items():
        for key, seconds in by[name].most_common(number):
            terminalreporter.line(f"{seconds:8.1f}  {key}")
        terminalreporter.line("")
