"""How `juicer ui` is ended; that it runs at all is tested in tests/services."""

import signal
from collections.abc import Iterator

import pytest

from flows import ui

ENDS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def harmless_signals() -> Iterator[None]:
    """Signals without a handler have no effect during a test, and afterwards every handler is as before."""
    before = {number: signal.signal(number, lambda *_: None) for number in ENDS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """`juicer ui`, with a signal in the place of all its servers."""
    monkeypatch.setattr(ui, "serve", lambda *_: signal.raise_signal(number))
    ui.run(4200, 5000, None)


@pytest.mark.parametrize("number", ENDS)
def test_ctrl_c_a_request_and_a_closed_terminal_end_the_servers(monkeypatch, capsys, number):
    run(monkeypatch, number)
    assert capsys.readouterr().out == "ended\n"


def test_a_closed_terminal_does_not_end_the_servers_under_nohup(monkeypatch, capsys):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run(monkeypatch, signal.SIGHUP)
    assert capsys.readouterr().out == ""
