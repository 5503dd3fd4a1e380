"""DVC's command line, with what `juicer.running.dvc_patches` replaces.

python -m juicer.running repro                     # as dvc repro, with independent stages at the same time
python -m juicer.running --at-a-time 1 repro       # one after the other
python -m juicer.running --show auto repro         # with progress in place of DVC's messages; also: bars, lines, quiet
"""

import sys

from juicer.running.progress import KINDS, Kind, kind_of


def main() -> int:
    """Run a command of DVC and return its exit code."""
    words = sys.argv[1:]
    at_a_time, show = None, None
    if words[:1] == ["--at-a-time"]:
        if not words[1:] or not words[1].isdigit() or not int(words[1]):
            print("error: --at-a-time takes a whole number from 1 on", file=sys.stderr)
            return 2
        at_a_time, words = int(words[1]), words[2:]
    if words[:1] == ["--show"]:
        known: dict[str, Kind] = {"auto": kind_of(sys.stdout), **{kind: kind for kind in KINDS}}
        if not words[1:] or words[1] not in known:
            print(f"error: --show takes one of {', '.join(known)}", file=sys.stderr)
            return 2
        show, words = known[words[1]], words[2:]
    from dvc.cli import main as dvc

    from juicer.running.dvc_patches import install

    install(at_a_time, show)
    return int(dvc(words))


if __name__ == "__main__":
    sys.exit(main())
