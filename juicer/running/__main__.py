"""DVC's command line, with what `juicer.running.dvc_patches` replaces.

python -m juicer.running repro                     # as dvc repro, with independent stages at the same time
python -m juicer.running --at-a-time 1 repro       # one after the other
"""

import sys


def main() -> int:
    """Run a command of DVC and return its exit code."""
    words = sys.argv[1:]
    at_a_time = None
    if words[:1] == ["--at-a-time"]:
        if not words[1:] or not words[1].isdigit() or not int(words[1]):
            print("error: --at-a-time takes a whole number from 1 on", file=sys.stderr)
            return 2
        at_a_time, words = int(words[1]), words[2:]
    from dvc.cli import main as dvc

    from juicer.running.dvc_patches import install

    install(at_a_time)
    return int(dvc(words))


if __name__ == "__main__":
    sys.exit(main())
