"""`juicer chat` in a terminal: one model, or two: in columns where they fit, else one below the other."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from juicer.data.demonstrations import Message
from juicer.runtime.errors import InputError, did_you_mean
from juicer.serving.conversation import Said, Speaker, side_by_side, visible

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS_FROM = 100
"""Width of a terminal, in characters, from which two models stand side by side."""
COMMANDS = {
    "/reset": "begin a new conversation",
    "/seed": "/seed N draws other responses",
    "/help": "show these commands",
    "/quit": "end; Ctrl-D does too, and Ctrl-C stops a response",
}


def talk(speakers: Sequence[Speaker], seed: int, read: Callable[[str], str] = input) -> None:
    """Talk until the user ends it.

    Args:
        read: asks for a line, as `input` does; EOFError ends the conversation.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 -- gives `input` a history and its keys
    Conversation(speakers, seed).run(read)


class Conversation:
    """What has been said to each model, and the seed."""

    def __init__(self, speakers: Sequence[Speaker], seed: int) -> None:
        from rich.console import Console

        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")
        self._speakers, self._seed = speakers, seed
        self._turns: list[list[Message]] = [[] for _ in speakers]
        self._console = Console(highlight=False, soft_wrap=True)

    def run(self, read: Callable[[str], str]) -> None:
        """Read lines and answer them until one of them, or the end of the input, ends it."""
        self._introduce()
        terminal = sys.stdin.isatty()
        while True:
            try:
                line = read("\nyou> " if terminal else "").strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return
            if not line:
                continue
            if line.startswith("/"):
                if line == "/quit":
                    return
                self._obey(line)
                continue
            try:
                self._answer(line)
            except InputError as error:
                print(f"error: {visible(str(error))}")
            except KeyboardInterrupt:
                print("\n(stopped; this exchange is forgotten)")

    def _introduce(self) -> None:
        for speaker in self._speakers:
            sampling = speaker.sampling
            print(
                f"{speaker.title}: temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, "
                f"at most {speaker.longest_response} tokens"
            )
        print(f"seed {self._seed}; {', '.join(COMMANDS)}", flush=True)

    def _obey(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name == "/reset":
            self._turns = [[] for _ in self._speakers]
            print("a new conversation")
        elif name == "/seed" and rest.strip().isdecimal():
            self._seed = int(rest)
            print(f"seed {self._seed}")
        elif name == "/seed":
            print("error: write a whole number: /seed 1")
        elif name == "/help":
            print("\n".join(f"{each.ljust(8)}{what}" for each, what in COMMANDS.items()))
        else:
            print(f"error: there is no command {visible(name)} ({did_you_mean(name, COMMANDS)})")

    def _answer(self, line: str) -> None:
        """Let every model answer; what was said is kept only if all of them have."""
        asked: Message = {"role": "user", "content": line}
        turns = [[*before, asked] for before in self._turns]
        notes = [each.note(turn) for each, turn in zip(self._speakers, turns, strict=True)]
        said = self._shown([each.respond(turn, self._seed) for each, turn in zip(self._speakers, turns, strict=True)])
        for place, note in enumerate(notes):
            if note:
                print(f"({self._speakers[place].name}: {note})")
        answers: list[Message] = [{"role": "assistant", "content": each.text} for each in said]
        self._turns = [[*turn, answer] for turn, answer in zip(turns, answers, strict=True)]

    def _shown(self, responses: Sequence[Iterator[Said]]) -> list[Said]:
        if len(responses) > 1 and self._console.is_terminal and self._console.width >= COLUMNS_FROM:
            return self._in_columns(responses)
        return [self._below(place, response) for place, response in enumerate(responses)]

    def _below(self, place: int, response: Iterator[Said]) -> Said:
        """Print a response as it comes."""
        print(f"\n{self._speakers[place].name}> ", end="", flush=True)
        shown, said = "", Said("", 0)
        for said in response:
            if said.text.startswith(shown):
                print(visible(said.text[len(shown) :]), end="", flush=True)
            else:  # what looked like text was markup
                print(f"\n{visible(said.text)}", end="", flush=True)
            shown = said.text
        print(_ending(said), flush=True)
        return said

    def _in_columns(self, responses: Sequence[Iterator[Said]]) -> list[Said]:
        """Show responses side by side as they come, and then once as they are."""
        from rich.live import Live

        said = [Said("", 0) for _ in responses]
        with Live(self._table(said), console=self._console, transient=True, refresh_per_second=15) as live:
            for place, each in side_by_side(responses):
                said[place] = each
                live.update(self._table(said))
        self._console.print(self._table(said))
        return said

    def _table(self, said: Sequence[Said]) -> "Table":
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0))
        for speaker in self._speakers:
            table.add_column(Text(visible(speaker.name)), ratio=1, overflow="fold")
        table.add_row(*(Text(visible(each.text) + _ending(each)) for each in said))
        return table


def _ending(said: Said) -> str:
    if not said.done:
        return ""
    if said.cut:
        return f" [cut after {said.tokens} tokens]"
    return "" if said.text else "[no text]"
