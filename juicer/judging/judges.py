"""The three kinds of judge: an OpenAI-compatible endpoint, a program, a model of this machine."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from juicer.judging.question import SHORT_FORM, Question
from juicer.models.digest import weights_digest
from juicer.runtime.errors import InputError
from juicer.settings.pairwise import PairwiseSettings

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class Answer:
    """What a judge said."""

    text: str
    """Its answer, or "" if there was none."""
    problem: str = ""
    """Why there was none."""
    tokens_in: int = 0
    tokens_out: int = 0
    wait: float = 0
    """Seconds that the judge wants to be left alone for, before it is asked again."""


class Judge(Protocol):
    """Answers questions in any order. It raises InputError for what asking again cannot mend."""

    @property
    def name(self) -> str:
        """What the record calls it."""
        ...

    @property
    def identity(self) -> str:
        """What the cache of answers knows it by: another for every judge that may answer otherwise."""
        ...

    @property
    def pause(self) -> float:
        """Seconds before the first repetition of questions that have no verdict; doubled for each one after it."""
        ...

    def ask(self, questions: Sequence[Question], rubric: str) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each question and its answer as soon as it is there."""
        ...


@contextmanager
def opened(settings: PairwiseSettings, loaded: Callable[[str], "tuple[Any, Any]"]) -> Iterator[Judge]:
    """The judge of a recipe, while it is used.

    Args:
        settings: of the recipe.
        loaded: loads a model of this machine and its tokenizer.

    Raises:
        InputError: the key is not in the environment, or the program cannot be started.
    """
    if settings.kind == "endpoint":
        import httpx

        with httpx.Client(timeout=settings.timeout, follow_redirects=False) as client:
            yield Endpoint(settings, client, _key(settings))
    elif settings.kind == "command":
        yield Command(settings)
    else:
        model, tokenizer = loaded(settings.model or "")
        yield LocalModel(settings.model or "", model, tokenizer)


def _key(settings: PairwiseSettings) -> str | None:
    if settings.key is None:
        return None
    value = os.environ.get(settings.key, "").strip()
    if not value:
        what = f"the environment has no {settings.key}, which pairwise.key names"
        raise InputError(what, where="pairwise.key", do=f"export {settings.key}=..., or set pairwise.key to null")
    return value


@dataclass
class Endpoint:
    """An OpenAI-compatible server: POST url/chat/completions."""

    settings: PairwiseSettings
    client: "httpx.Client"
    key: str | None = field(repr=False)

    @property
    def name(self) -> str:
        """The model and where it is."""
        return f"{self.settings.model} at {self.settings.url}"

    @property
    def identity(self) -> str:
        """The same: a server does not say which weights it has."""
        return self.name

    @property
    def pause(self) -> float:
        """A second, for a server that is busy."""
        return 1.0

    def ask(self, questions: Sequence[Question], rubric: str) -> Iterator[tuple[int, Answer]]:
        """Ask several questions at a time."""
        from concurrent.futures import as_completed

        with ThreadPoolExecutor(self.settings.at_a_time) as pool:
            asked = {pool.submit(self._one, each, rubric): place for place, each in enumerate(questions)}
            try:
                for done in as_completed(asked):
                    yield asked[done], done.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, question: Question, rubric: str) -> Answer:
        import httpx

        body = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": question.text(rubric)}],
            "temperature": 0,
            "max_tokens": self.settings.max_tokens,
        }
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            answer = self.client.post(f"{self.settings.url}/chat/completions", json=body, headers=headers)
        except httpx.TimeoutException:
            return Answer("", f"no answer within {self.settings.timeout:g} s")
        except httpx.HTTPError as error:
            return Answer("", f"{type(error).__name__}: {error}")
        if answer.status_code in (400, 401, 403, 404, 405, 422) or answer.is_redirect:
            do = "check pairwise.url, pairwise.model and the key"
            raise InputError(f"the endpoint answers {answer.status_code}: {_said(answer.text)}", where=self.name, do=do)
        if answer.status_code != 200:
            said = f"the endpoint answers {answer.status_code}: {_said(answer.text)}"
            return Answer("", said, wait=_asked_to_wait(answer.headers.get("Retry-After", ""), self.settings.timeout))
        try:
            values = answer.json()
            text = values["choices"][0]["message"]["content"] or ""
            used = values.get("usage") or {}
            return Answer(str(text), "", int(used.get("prompt_tokens") or 0), int(used.get("completion_tokens") or 0))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return Answer("", f"not the answer of an OpenAI-compatible server: {_said(answer.text)}")


def _asked_to_wait(header: str, most: float) -> float:
    """Seconds that a server's Retry-After asks for, at most `most`; 0 without one, or where it is a date."""
    return min(float(header), most) if header.isascii() and header.isdecimal() else 0.0


def _said(text: str) -> str:
    """The beginning of what a server said, for a message."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]}..."


@dataclass
class Command:
    """A program that gets a question per line of JSON on its standard input, and writes an answer per line.

    A question has the keys `rubric`, `prompt` (turns with role and content), `response_1` and `response_2`; an answer
    is a line of JSON with `better` (1, 2 or tie), or any text that ends with such an object.
    """

    settings: PairwiseSettings

    @property
    def name(self) -> str:
        """The command line."""
        return " ".join(self.settings.command)

    @property
    def identity(self) -> str:
        """The command line, and what is in the files that it names."""
        files = [Path(part) for part in self.settings.command]
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
        return json.dumps([self.settings.command, digests])

    @property
    def pause(self) -> float:
        """None: the program answers when it can."""
        return 0.0

    def ask(self, questions: Sequence[Question], rubric: str) -> Iterator[tuple[int, Answer]]:
        """Run the program once, with all questions."""
        lines = [
            json.dumps(
                {"rubric": rubric, "prompt": list(each.prompt), "response_1": each.first, "response_2": each.second}
            )
            for each in questions
        ]
        seconds = self.settings.timeout * max(1, len(questions))
        try:
            done = subprocess.run(
                self.settings.command,
                input="\n".join(lines) + "\n",
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(f"the judge did not end within {seconds:g} s", where=self.name) from error
        except OSError as error:
            raise InputError(f"the judge cannot be started: {error.strerror}", where=self.name) from error
        if done.returncode:
            raise InputError(f"the judge ends with code {done.returncode}: {_said(done.stderr)}", where=self.name)
        answers = done.stdout.splitlines()
        if len(answers) != len(questions):
            what = f"the judge was asked {len(questions)} questions and wrote {len(answers)} lines"
            raise InputError(what, where=self.name, do="write one line for each line that is read")
        for place, answer in enumerate(answers):
            yield place, Answer(answer)


@dataclass
class LocalModel:
    """A causal language model of this machine: the likeliest of the three answers as what comes next.

    One that knows no chat gets the question as plain text.
    """

    folder: str
    model: Any
    tokenizer: Any

    @property
    def name(self) -> str:
        """The model's folder."""
        return self.folder

    @property
    def identity(self) -> str:
        """The digest of its weights."""
        return weights_digest(Path(self.folder))

    @property
    def pause(self) -> float:
        """None: it would answer the same."""
        return 0.0

    def ask(self, questions: Sequence[Question], rubric: str) -> Iterator[tuple[int, Answer]]:
        """Compute the three log-probabilities of one question after another."""
        words = ("1", "2", "tie")
        answers = [list(self.tokenizer.encode(word, add_special_tokens=False)) for word in words]
        if any(one == other for one, other in combinations(answers, 2)):
            raise InputError("the tokenizer does not distinguish 1, 2 and tie", where=self.folder)
        for place, question in enumerate(questions):
            ids = self._encode(question.text(rubric, SHORT_FORM))
            longest = getattr(self.model.config, "max_position_embeddings", None)
            if longest is not None and len(ids) > longest:
                yield place, Answer("", f"the question has {len(ids)} tokens, and the model reads {longest}")
                continue
            values = [self._log_probability(ids, answer) for answer in answers]
            yield place, Answer(words[values.index(max(values))], "", len(ids), 1)

    def _log_probability(self, ids: list[int], answer: list[int]) -> float:
        """Of an answer after a question. All its tokens count: some tokenizers begin every word with the same one."""
        import torch

        with torch.no_grad():
            logits = self.model(torch.tensor([[*ids, *answer]], device=self.model.device)).logits[0, len(ids) - 1 : -1]
        found = logits.float().log_softmax(-1)
        return float(found[range(len(answer)), answer].sum())

    def _encode(self, text: str) -> list[int]:
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer.encode(f"{text}\n\nAnswer: "))
        turns = [{"role": "user", "content": text}]
        found = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
        return list(found)
