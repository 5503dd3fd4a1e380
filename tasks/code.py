"""Stage code: list the modules that each stage program uses, each with its md5.

Every other stage depends on its own list, so a change of a module reruns the stages that use it and no others.
"""

import argparse
from pathlib import Path

from juicer.stages.code import Sources
from juicer.stages.stage import Stage, main


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder to write, a list per program")


def run(stage: Stage) -> str:
    lists = Sources().lists()
    with stage.publish(stage.arguments.out) as folder:
        folder.mkdir()
        for path, text in lists.items():
            (folder / Path(path).name).write_text(text, encoding="utf-8")
    return f"the code of {len(lists)} programs"


if __name__ == "__main__":
    main(run, arguments, __doc__)
