"""The command that promotes: what its exit code says, with a Prefect server and without."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from flows import promote
from juicer.registry.gates import Verdict
from juicer.registry.promote import Decision


@pytest.mark.parametrize("server", ["http://127.0.0.1:1/api", None])
@pytest.mark.parametrize(("result", "code"), [("failed", 3), ("passed", 0)])
def test_a_refusal_by_a_gate_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, server: str | None, result: Any, code: int
) -> None:
    decision = Decision("promotion of x 1", {}, {"champion": "1"}, False, [Verdict("gate", result, "1 against 2")])
    flow = promote.promote.fn

    def run(version: str, return_state: bool, **asked: Any) -> Any:
        return flow(version, **asked)

    monkeypatch.setattr(promote, "promote", run)
    monkeypatch.setattr(promote, "decide", lambda version, *gates, **asked: decision)
    monkeypatch.setattr(promote, "get_run_logger", lambda: logging.getLogger("test"))
    for name in ("create_markdown_artifact", "check_server"):
        monkeypatch.setattr(promote, name, lambda *given, **named: None)
    settings = SimpleNamespace(api=SimpleNamespace(url=server))
    monkeypatch.setattr(promote, "get_current_settings", lambda: settings)
    assert promote.command("challenger", "gates.yaml", dry_run=False) == code
