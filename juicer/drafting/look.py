"""`juicer look`: rows as they are understood, without a project and without writing anything."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from juicer.drafting.shown import aligned, as_seen, as_understood, described
from juicer.drafting.survey import Placed, SourceSurvey, no_demonstrations, read_source
from juicer.settings.sources import ReadingSettings


def show(paths: Sequence[str], reading: ReadingSettings, rows: int, model: str | None) -> None:
    """Print what the data is, and its first rows.

    Args:
        rows: how many rows of each source are shown.
        model: folder with a tokenizer, through whose template they are shown too.

    Raises:
        InputError: a file or the model does not exist or is damaged, a source has no rows, or the format is not known.
    """
    for path in paths:
        source = SourceSurvey(path, among_others=len(paths) > 1)
        read = read_source(source, reading)
        shown = list(islice(read, rows))
        for _ in read:
            pass
        if not source.rows:
            raise no_demonstrations(source)
        print(aligned(described(source)))
        for placed in shown:
            print(f"\n{as_understood(placed)}")
        if model is not None and shown:
            print(f"\nAs {model} will see them, with what is trained on marked:")
            _show_rendered(shown, model)


def _show_rendered(rows: Sequence[Placed], model: str) -> None:
    from juicer.drafting.model import find_model, rendering_of

    found = find_model(str(Path(model).expanduser()), None, "policy", "--model", keep=False)
    best = rendering_of(found)[0]
    print(f"template {best.template.settings.name}: {best.why}")
    for placed in rows:
        print(f"\n{as_seen(best.template, placed, lengths=best.measured)}")
