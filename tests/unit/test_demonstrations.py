"""The schema of a demonstration: its line in a file, and the hashes that decide its split."""

from pathlib import Path

from juicer.data.demonstrations import Demonstration, Message, hash_of, opening_hash, read, write

PROMPT: list[Message] = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "Héllo\n there"}]
MORE: list[Message] = [{"role": "assistant", "content": "hi"}, {"role": "user", "content": "and?"}]
LINE = (
    '{"id":"75462c94f1c311b5","prompt":[{"role":"system","content":"be kind"},{"role":"user","content":'
    '"Héllo\\n there"}],"response":"hi","rejected":"no","held_out":false,"score":null}\n'
)


def test_a_row_of_no_dialogue_has_the_line_and_the_hash_that_it_always_had() -> None:
    row = Demonstration.make(PROMPT, "hi", rejected="no")
    assert row.line().decode() == LINE
    assert row.prompt_hash() == "3da8251df41e11347cdec1d5319d91bd9b57c282b7d6f7fc6ada5b8180b43153"
    assert row.split_hash() == row.prompt_hash()


def test_a_row_of_a_dialogue_is_split_by_the_dialogue(tmp_path: Path) -> None:
    rows = [Demonstration.make(PROMPT + more, "no", dialogue=opening_hash(PROMPT + MORE)) for more in ([], MORE)]
    assert {row.split_hash() for row in rows} == {opening_hash(PROMPT)} == {hash_of(PROMPT)}
    assert rows[1].prompt_hash() != rows[1].split_hash()
    assert write(tmp_path / "rows.jsonl", rows) == 2
    assert list(read(tmp_path / "rows.jsonl")) == rows


def test_prompts_that_differ_in_outer_white_space_are_other_rows_of_the_same_split(tmp_path: Path) -> None:
    rows = [Demonstration.make([{"role": "user", "content": text}], "hi\n") for text in ("Hello", "Hello ", "\nHello")]
    assert len({row.id for row in rows}) == 3
    assert len({row.split_hash() for row in rows}) == 1
    write(tmp_path / "rows.jsonl", rows)
    assert list(read(tmp_path / "rows.jsonl")) == rows
