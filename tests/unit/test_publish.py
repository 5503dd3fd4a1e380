"""What a flow shows in Prefect, without a server of either kind."""

import base64
from xml.etree import ElementTree

import pytest

from flows import publish
from juicer.reporting.numbers import summarise
from tests.example_evaluations import parsed, table


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The artifacts' texts; MLflow has one run."""
    texts = list[str]()
    monkeypatch.setattr(publish, "runs_of", lambda address, experiment: ("7", [("sft", "abc", "FINISHED")]))
    monkeypatch.setattr(publish, "create_markdown_artifact", lambda text, **more: texts.append(text))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@mlflow:5000/")
    monkeypatch.delenv("JUICER_MLFLOW_URL", raising=False)
    return texts


def test_links_to_mlflow_hold_no_password(shown):
    publish.publish_mlflow_links("quickstart")
    assert "[sft](http://mlflow:5000/#/experiments/7/runs/abc)" in shown[0]
    assert "[quickstart](http://mlflow:5000/#/experiments/7/runs?workflowType=machine_learning)" in shown[0]
    assert "secret" not in shown[0]


def test_links_lead_to_where_browsers_reach_mlflow(shown, monkeypatch):
    monkeypatch.setenv("JUICER_MLFLOW_URL", "https://mlflow.example.org/")
    publish.publish_mlflow_links("quickstart")
    assert "[sft](https://mlflow.example.org/#/experiments/7/runs/abc)" in shown[0]
    assert "mlflow:5000" not in shown[0]


def test_the_figures_by_round_are_whole_images_with_the_style_of_the_page():
    found = publish.figures(summarise(parsed(table(2, 1)), "quickstart", 0))
    assert [title for title, _ in found] == ["Figure 2a. Preference gap", "Figure 2b. Average score"]
    for _, image in found:
        kind, encoded = image.split(",", 1)
        root = ElementTree.fromstring(base64.b64decode(encoded))
        assert (kind, root.tag) == ("data:image/svg+xml;base64", "{http://www.w3.org/2000/svg}svg")
        assert "--irft:" in (root[0].text or "")
