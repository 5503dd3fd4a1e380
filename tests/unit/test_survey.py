"""What `juicer init` and `juicer look` find out about data, columns and the machine."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from juicer.data.template import Template
from juicer.drafting import machine
from juicer.drafting.columns import columns_of
from juicer.drafting.machine import Gpu, Machine, parse_gpus
from juicer.drafting.measure import measure
from juicer.drafting.shown import aligned, as_seen, as_understood, described, shortened, summary
from juicer.drafting.survey import Placed, Thinned, check_usable, survey
from juicer.runtime import memory
from juicer.runtime.devices import DEVICES, GIB, MIB
from juicer.runtime.errors import InputError
from juicer.settings.sources import ReadingSettings

CHAT = {
    "messages": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hello, how are you?"},
        {"role": "user", "content": "very well"},
        {"role": "assistant", "content": "thank you"},
    ]
}
OPEN = {"messages": CHAT["messages"][:3]}
READING = ReadingSettings()
NVIDIA = """0, GPU-8a56aaaa, NVIDIA H100 80GB HBM3, 81559, 9.0
1, GPU-9b67bbbb, NVIDIA H100 80GB HBM3, 81559, 9.0
"""


def written(path: Path, rows: Iterable[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def test_a_survey_counts_rows_turns_duplicates_and_what_is_held_out(tmp_path: Path) -> None:
    written(tmp_path / "data/train.jsonl", [CHAT, CHAT, OPEN, {**CHAT, "messages": CHAT["messages"][:2]}])
    written(tmp_path / "data/test.jsonl", [CHAT])
    found = survey([str(tmp_path / "data")], READING)
    (source,) = found.sources
    assert (source.format, source.rows, source.demonstrations, source.held_out) == ("messages", 5, 4, 1)
    assert source.held_out_files == ["test.jsonl"] and source.whole
    assert (found.duplicates, found.prompts, dict(found.turns), found.further_turns) == (2, 2, {2: 3, 1: 1}, 3)
    assert dict(source.left_out) == {"no_assistant_turn": 1}
    assert source.first["no_assistant_turn"][0].where == f"{tmp_path}/data/train.jsonl:3"
    assert [placed.where.rpartition("/")[2] for placed in found.sample] == [
        "test.jsonl:1", "train.jsonl:4",
    ]  # fmt: skip


def test_of_large_data_the_first_rows_of_every_file_are_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / f"data/{name}.jsonl", [{"prompt": f"{name} {row}", "response": "x"} for row in range(300)])
    found = survey([str(tmp_path / "data")], READING, whole=10, first=400)
    assert (found.rows, found.whole) == (400, False)
    assert "the first 400 rows in 2 files (it is large)" in aligned(summary(found))


def test_data_without_a_row_that_can_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = written(tmp_path / "open.jsonl", [OPEN, OPEN])
    with pytest.raises(InputError, match=r"none of the 2 rows can be used; of 2, the dialogue does not end"):
        survey([path], READING)
    with pytest.raises(InputError, match="there are no rows"):
        survey([written(tmp_path / "empty.jsonl", [])], READING)


def test_too_many_faulty_rows_are_refused_as_a_run_would_and_any_number_that_is_meant_is_not(tmp_path: Path) -> None:
    faulty = survey([written(tmp_path / "a.jsonl", [CHAT] * 10 + [OPEN] * 2)], READING)
    with pytest.raises(InputError, match=r"a.jsonl:11: 2 of 12 rows are unusable, 2 because the dialogue does not end"):
        check_usable(faulty, 0.05)
    check_usable(faulty, 0.2)
    check_usable(survey([written(tmp_path / "b.jsonl", [CHAT] * 10 + [OPEN])], READING), 0.05)
    meant = {"prompt": "hello", "completion": "it is", "label": False}
    found = survey([written(tmp_path / "c.jsonl", [{**meant, "label": True}] + [meant] * 9)], READING)
    check_usable(found, 0.05)
    assert (found.demonstrations, dict(found.sources[0].left_out)) == (1, {"undesirable": 9})


def test_a_thinned_stream_is_whole_while_it_is_short_and_even_when_it_is_long() -> None:
    thinned = Thinned[int](4)
    for number in range(8):
        thinned.add(number)
    assert thinned.kept == list(range(8))
    for number in range(8, 100):
        thinned.add(number)
    assert 4 <= len(thinned.kept) <= 8
    assert {after - before for before, after in zip(thinned.kept, thinned.kept[1:], strict=False)} == {16}


def test_rows_are_measured_once_with_their_ends_and_unsuitable_ones_counted(tmp_path: Path, template: Template) -> None:
    marked = {"prompt": "hello", "response": "the world <|endoftext|> is nice"}
    rows = [CHAT, CHAT, {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "it is"}]}]
    sample = survey([written(tmp_path / "a.jsonl", rows), written(tmp_path / "b.jsonl", [marked])], READING).sample
    found = measure(template, sample)
    assert len(found.rows) == 2 and dict(found.unsuitable) == {"markup_in_text": 1}
    first = sample[0].row
    assert found.rows[0].prompt == len(template.prompt(first.prompt))
    assert found.rows[0].response == len(template.response(first.prompt, first.response))


def test_a_row_is_shown_role_by_role_and_as_the_policy_sees_it(tmp_path: Path, template: Template) -> None:
    placed = survey([written(tmp_path / "a.jsonl", [CHAT])], READING).sample[0]
    assert as_understood(placed).splitlines()[1:] == [
        "user       hello",
        "assistant  hello, how are you?",
        "user       very well",
        "response   >>>thank you<<<",
    ]
    seen = as_seen(template, placed, lengths=True)
    assert seen.endswith("Assistant:>>> thank you<|endoftext|><<<")
    assert f"prompt {len(template.prompt(placed.row.prompt))} tokens" in seen
    bad = Placed(placed.row.model_copy(update={"response": "<|endoftext|> more"}), "a.jsonl:9")
    assert "a.jsonl:9: will be dropped, because the response holds '<|endoftext|>'" in as_seen(
        template, bad, lengths=True
    )


def test_texts_from_a_file_do_not_reach_the_terminal_as_commands() -> None:
    assert shortened("a\x1b[31mb\r\nc\td") == "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}\nc\td"
    cut = shortened("x" * 2000)
    assert "[... 1,400 characters ...]" in cut and len(cut) < 650


def test_keys_that_are_not_read_and_rows_left_out_are_named(tmp_path: Path) -> None:
    (source,) = survey([written(tmp_path / "a.jsonl", [CHAT, OPEN])], READING).sources
    source.unread["note"] = 7
    text = aligned(described(source))
    assert "not read  note (7)" in text
    assert "left out  1 row: the dialogue does not end in an assistant turn\n          line 2" in text


def test_totals_of_several_sources_are_named_as_those_of_all_data(tmp_path: Path) -> None:
    one = [written(tmp_path / "a.jsonl", [CHAT, OPEN])]
    assert "all data" not in aligned(summary(survey(one, READING)))
    text = aligned(summary(survey([*one, written(tmp_path / "b.jsonl", [CHAT])], READING)))
    assert "1 demonstration\n" in text
    assert text.splitlines()[-3:] == [
        "all data  3 rows, 2 demonstrations",
        "turns     2 dialogues with several answers, up to 2",
        "prompts   1 different one, 1 duplicate",
    ]


def test_columns_are_named_in_pairs() -> None:
    columns = columns_of(["prompt=question, response=the answer", "roles.user=client", "roles.user=caller"])
    assert (columns.prompt, columns.response, columns.roles.user) == ("question", "the answer", ["client", "caller"])
    assert not columns_of([]).named
    for given, told in [
        ("question", "'question' is not a column"),
        ("promt=a,response=b", "did you mean 'prompt'"),
        ("prompt=a", "needs both prompt and response"),
    ]:
        with pytest.raises(InputError, match=told):
            columns_of([given])


def test_gpus_are_those_that_the_process_sees() -> None:
    one = Gpu("NVIDIA H100 80GB HBM3", 81559 * MIB)
    assert parse_gpus(NVIDIA, None) == [one, one]
    assert parse_gpus(NVIDIA, "1") == parse_gpus(NVIDIA, "GPU-9b67") == [one]
    assert parse_gpus(NVIDIA, "") == parse_gpus(NVIDIA, "-1") == parse_gpus("No devices were found", None) == []


def test_a_known_gpu_is_planned_by_its_data_sheet_and_others_by_their_memory() -> None:
    known = Machine((Gpu("NVIDIA H100 80GB HBM3", 81559 * MIB),) * 2, 64 * GIB, 16)
    assert known.device.operations == DEVICES["H100"].operations and known.device.memory == 81559 * MIB
    assert known.has_speed and str(known).startswith("2 x NVIDIA H100 80GB HBM3 with 80 GiB, 64.0 GiB")
    (old,) = parse_gpus("0, GPU-1, Tesla T4, 15360, 7.5", None)
    assert (Machine((old,), 1.0, 1).precision, known.precision) == ("fp32", "bf16")
    other = Machine((Gpu("Voodoo", 4 * GIB),), 64 * GIB, 16)
    assert other.device.memory == 4 * GIB and not other.has_speed
    none = Machine((), 8 * GIB, 1)
    assert none.device.memory == 8 * GIB and str(none) == "no GPU, 8.0 GiB of free memory, 1 core; computes in fp32"


def test_a_container_s_limit_is_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("5000\n")
    assert machine.look_at_machine().memory == 4000
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 700\nactive_file 200\n")
    assert machine.look_at_machine().memory == 4900, "files in the cache make room"
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.look_at_machine().memory > 10**6


def test_limits_of_either_version_of_control_groups_count_and_those_inside_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    inside, first = tmp_path / "a.slice/b.service", tmp_path / "memory"
    for folder in (inside, first):
        folder.mkdir(parents=True)
    (first / "memory.limit_in_bytes").write_text("9000\n")
    (first / "memory.usage_in_bytes").write_text("3000\n")
    (first / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 500\n")
    assert memory.main_memory() == (9000, 6500)
    (tmp_path / "groups").write_text("4:memory:/of/the/host\n0::/a.slice/b.service\n")
    (inside.parent / "memory.max").write_text("5000\n")
    (inside.parent / "memory.current").write_text("1000\n")
    assert memory.main_memory() == (5000, 4000)
    (first / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory.main_memory() == (5000, 4000)
