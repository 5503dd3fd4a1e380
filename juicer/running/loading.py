"""What DVC does again for every stage when it loads dvc.yaml, done once: 580 stages have 3,000 inputs and outputs."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage


class FileSystems:
    """DVC's `get_cloud_fs`, which finds the file system of a path, and validates its settings, for every path."""

    def __init__(self, original: Callable[..., tuple[Any, dict[str, Any], str]]) -> None:
        """Ask `original` for every path but plain local ones, and once for these."""
        self._original = original
        self._known: tuple[Any, Any, dict[str, Any]] | None = None
        """The configuration for which `original` was asked, and its answer."""

    def __call__(self, config: Any, **given: Any) -> tuple[Any, dict[str, Any], str]:
        """Class and settings of the file system, and the path there."""
        path = given.get("url")
        if set(given) != {"url"} or not isinstance(path, str) or ":" in path:
            return self._original(config, **given)
        if self._known is None or self._known[0] is not config:
            kind, settings, _ = self._original(config, **given)
            self._known = config, kind, settings
        _, kind, settings = self._known
        return kind, dict(settings), kind._strip_protocol(path)


class Collected:
    """DVC's `collect_stages` of `dvc repro`, which loads all of dvc.yaml beside the index that holds it already."""

    def __init__(self, original: "Callable[..., list[Stage]]") -> None:
        """Leave targets that the user names to `original`."""
        self._original = original

    def __call__(self, repo: "Repo", targets: Iterable[str], **given: Any) -> "list[Stage]":
        """The stages of the targets, in the order of dvc.yaml."""
        from dvc.dvcfile import PROJECT_FILE

        targets = list(targets)
        if targets == [PROJECT_FILE] and not any(given.values()):
            path = str(Path(PROJECT_FILE).absolute())
            if found := [stage for stage in repo.index.stages if stage.path == path]:
                return found
        return self._original(repo, targets, **given)


class Subgraphs:
    """DVC's `get_subgraph`, which walks the graph from each of its nodes even if all of them are wanted."""

    def __init__(self, original: Callable[..., Any]) -> None:
        """Leave parts of a graph to `original`."""
        self._original = original

    def __call__(self, graph: Any, nodes: "list[Stage] | None" = None, **given: Any) -> Any:
        """The part of the graph with the nodes and all that they depend on."""
        if nodes and not any(given.values()) and len(nodes) == len(graph) and set(nodes) == set(graph):
            return graph
        return self._original(graph, nodes, **given)
