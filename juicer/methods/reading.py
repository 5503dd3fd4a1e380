"""How the learnt reward reads a dialogue: as the policy's tokens, or as text through a tokenizer of its own.

A reward that starts from the policy has the policy's tokens, and reads exactly what was sampled. Another model's token
ids mean something else, so it reads the text, in the recipe's template and its own tokenizer.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from juicer.data.demonstrations import Demonstration, Message
from juicer.data.dialogues import Dialogue, Sample
from juicer.data.rendering import RefusedDialogue
from juicer.data.template import Template
from juicer.methods.pairs import Pair, make_pairs
from juicer.models.folder import context_of, read_config_values
from juicer.models.loading import load_template
from juicer.runtime.errors import InputError

SHORTER = "lower the limits of template, or use a reward with a longer context"


class RewardReader:
    """Dialogues as the reward reads them.

    Args:
        policy: the policy's template.
        reward: the reward's; None for a reward that has the policy's tokens.
        positions: most tokens that the reward can read; None for no limit.

    Raises:
        InputError: the reward has the policy's tokens, but reads fewer than the recipe's limits allow.
    """

    def __init__(self, policy: Template, reward: Template | None = None, positions: int | None = None) -> None:
        self.text = reward is not None and not same_tokens(policy, reward)
        """Whether the reward reads text; otherwise it reads the policy's token ids."""
        self.policy = policy
        self.own = reward or policy
        """The template of the reward, whose tokenizer belongs to its folder."""
        self.padding = self.own.padding
        self.positions = positions
        longest = policy.settings.max_prompt_tokens + policy.settings.max_response_tokens
        if not self.text and positions is not None and longest > positions:
            what = (
                f"template.max_prompt_tokens + max_response_tokens = {longest}, but the reward reads {positions} tokens"
            )
            raise InputError(what, where=str(self.own.tokenizer.name_or_path), do=SHORTER)

    def takes(self, prompt: Sequence[Message]) -> bool:
        """Whether the reward's template takes the turns of a prompt; the policy's takes those of all curated rows."""
        if self.text:
            try:
                self.own.render_response(prompt, "yes")
            except RefusedDialogue:
                return False
        return True

    @property
    def facts(self) -> dict[str, str]:
        """What the training record says of it: nothing where the reward reads the policy's tokens."""
        return {"reads": "text"} if self.text else {}

    def demonstration(self, prompt: Sequence[Message], response: str) -> Dialogue:
        """A complete response; as text it goes through the policy's tokens, so that a sample could be the same."""
        if not self.text:
            return Dialogue(self.policy.prompt(prompt), self.policy.response(prompt, response))
        return self._from_text(prompt, self.policy.decode(self.policy.response(prompt, response)), ended=True)

    def sample(self, prompt: Sequence[Message], response: list[int]) -> Dialogue:
        """A sampled response, given as the policy's tokens; one that was cut off at the limit gets no end."""
        if not self.text:
            return Dialogue(self.policy.prompt(prompt), response)
        ended = bool(response) and response[-1] in self.policy.ends
        return self._from_text(prompt, self.policy.decode(response), ended=ended)

    def pairs(self, rows: Sequence[Demonstration], samples: Sequence[Sample]) -> list[Pair]:
        """The demonstration/sample pairs of a round, as `make_pairs`, without rows that the reward's template refuses.

        Raises:
            InputError: as `make_pairs`, or a dialogue is longer than the reward's context.
        """
        pairs = make_pairs(rows, samples, self.policy)
        if not self.text:
            return pairs
        known = {row.id: row for row in rows if self.takes(row.prompt)}
        if not known:
            what = "the chat template of the reward refuses every row"
            do = "use a reward whose template takes these turns, and template.system, or set template.name to hh"
            raise InputError(what, where=str(self.own.tokenizer.name_or_path), do=do)
        return [
            Pair(self.demonstration(row.prompt, row.response), self.sample(row.prompt, sample.response))
            for sample in samples
            for row in [known.get(sample.id)]
            if row is not None
        ]

    def _from_text(self, prompt: Sequence[Message], response: str, *, ended: bool) -> Dialogue:
        asked = [Message(role=turn["role"], content=self._as_text(turn["content"])) for turn in prompt]
        tokens = self.own.response(asked, self._as_text(response))
        read = Dialogue(self.own.prompt(asked), tokens if ended else self.own.without_closing(tokens))
        if self.positions is not None and len(read) > self.positions:
            what = f"a dialogue has {len(read)} of the reward's tokens, but the reward reads {self.positions}"
            raise InputError(what, where=str(self.own.tokenizer.name_or_path), do=SHORTER)
        return read

    def _as_text(self, text: str) -> str:
        """A text in which the reward's special tokens, should they stand in it, are broken by a blank."""
        while (found := self.own.reserved_in(text)) is not None:
            text = text.replace(found, f"{found[0]} {found[1:]}" if len(found) > 1 else "")
        return text


def reader_of(policy: Template, policy_folder: Path, reward_folder: Path) -> RewardReader:
    """How the reward in a folder reads what the policy in another one writes.

    Raises:
        InputError: the reward reads text and its folder holds no tokenizer, or no chat template where the recipe asks
            for the model's own.
    """
    if policy_folder == reward_folder:
        return RewardReader(policy)
    context = context_of(read_config_values(reward_folder))
    return RewardReader(policy, load_template(reward_folder, policy.settings), context)


def same_tokens(one: Template, other: Template) -> bool:
    """Whether two tokenizers give every dialogue the same token ids, with the same meaning."""
    return _tokens_of(one) == _tokens_of(other)


def _tokens_of(template: Template) -> dict[str, Any]:
    """All of a tokenizer that decides the token ids of a dialogue."""
    tokenizer = template.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pipeline: dict[str, Any] = {} if backend is None else json.loads(backend.to_str())
    return {
        "vocabulary": tokenizer.get_vocab(),
        "special": {name: str(value) for name, value in tokenizer.special_tokens_map.items() if name != "pad_token"},
        "end": template.end_of_text,
        "chat_template": tokenizer.chat_template,
        # The rest of the pipeline adds tokens around a text, which a template does itself, or pads and truncates.
        **{name: pipeline.get(name) for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")},
        "kind": type(tokenizer).__name__ if backend is None else "",
    }
