"""Bad recipes, overrides and hand-edited params.yaml."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dev.hostile import Case

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
CONTENT = "the content of another file"

OVERRIDES = {
    # commands
    "policy.revision=main; touch pwned #": "is not a commit",
    "policy.revision=$(touch pwned)": "is not a commit",
    "scorer.revision='`touch pwned`'": "is not a commit",
    "fetch.revision=HEAD": "is not a commit",
    "rft.reward.revision='--help'": "is not a commit",
    'policy.model="org/name; touch pwned"': "no such folder",
    'policy.model="$(touch pwned)"': "no such folder",
    'policy.model="--out"': "begins with a dash",
    'policy.model=""': "must not be empty",
    'policy.model=" a"': "begins or ends with a blank",
    'policy.model="a\\nb"': "contains a line break",
    'policy.model="a\\0b"': "contains the character",
    'policy.model="a\\e[2Jb"': "contains the character",
    "policy.model=https://user:hunter2@host/x": "is a URL",
    'scorer.model="a|touch pwned"': "no such folder",
    'fetch.source="a && touch pwned"': "no such file or folder",
    'fetch.source="-rf"': "begins with a dash",
    "fetch.source=s3://bucket/x": "is a URL",
    'fetch.source="../../../../nowhere"': "no such file or folder",
    'fetch.subset="\\0"': "contains the character",
    'fetch.train_split="-x"': "begins with a dash",
    'fetch.licence="a\\r\\nb"': "contains a line break",
    'pretrain.corpus="x; touch pwned"': "no such file or folder",
    'pretrain.corpus="-x"': "begins with a dash",
    "leaderboard={enabled: true, mirror: 'x; touch pwned'}": "no such folder",
    'leaderboard={enabled: true, mirror: "-x"}': "begins with a dash",
    "leaderboard.harness.gsm8k.filter=-x": "begins with a dash",
    "name=../x": "match pattern",
    'name="a; touch pwned"': "match pattern",
    "name=A": "match pattern",
    "name=$(id)": "match pattern",
    "register.model_name=a/b": "which MLflow does not allow",
    "register.experiment=": "",
    'register.experiment="a\\nb"': "contains a line break",
    "register.tracking_uri=http://me:hunter2@host:5000": "MLFLOW_TRACKING_USERNAME",
    "register.tracking_uri=https://ghp_token@host": "MLFLOW_TRACKING_USERNAME",
    "register.tracking_uri=postgresql://u:p@db/mlflow": "MLFLOW_TRACKING_URI",
    "register.tracking_uri=https://host/?access_token=abc": "MLFLOW_TRACKING_URI",
    "register.tracking_uri=https://[host": "is not a valid URI",
    # sizes
    "irft.rounds=1e20": "should be a valid integer",
    "irft.rounds=100000000000000000000": "must be at most 100",
    "irft.rounds=101": "each round is several stages",
    "rft.rounds=999999": "must be at most 100",
    "rft.auto.most=1000": "must be at most 100",
    "irft.passes=100000": "must be at most 100",
    "seed=99999999999999999999": "a seed has 63 bits",
    "seed=-1": "greater than or equal to 0",
    "seed=1.5": "valid integer",
    "world.rows=1000000000000": "they are generated on this machine",
    "curate.keep=99999999999": "no machine reads so many rows",
    "compute.threads=1000000": "no machine has more cores",
    "compute.processes=1000000": "each process needs a GPU",
    "compute={device: cpu, attention: flash_attention_2}": "needs a GPU",
    "compute={packing: true, attention: eager}": "packed rows attend by varlen",
    "compute={compile: true, attention: sdpa}": "no rows are packed",
    "compute={packing: false, attention: varlen}": "for packed rows only",
    "sft.epochs=1e9": "the run would not end",
    "sft.epochs=.inf": "finite number",
    "sft.epochs=.nan": "finite number",
    "sft.batch_size=4294967296": "a batch is held in memory",
    "sft.batch_size=0": "greater than or equal to 1",
    "sft.lora={r: 99999999}": "no layer is wider",
    "sft.lora={r: 8, alpha: 99999999}": "the adapters would outweigh the model",
    "template.max_prompt_tokens=99999999": "no model reads a longer text",
    "pretrain.policy.hidden_size=1048576": "a tiny model is trained from scratch",
    "pretrain.policy={hidden_size: 8192, layers: 128}": "parameters, more than",
    "pretrain.policy.vocabulary=99999999": "its tokenizer is trained on this machine",
    "pretrain.scorer.layers=100000": "a tiny model is trained from scratch",
    "rft.policy.steps=1000000000": "the run would not end",
    "rft.policy.samples_per_prompt=100000": "each is a response of its own",
    "rft.reward.frozen_blocks=1000000": "no model has more blocks",
    "rft.ppo.epochs=1000": "the run would not end",
    "irft.sampling.temperature=1e300": "tokens would be drawn uniformly",
    "evaluation.shown=100000": "the report shows each on one page",
    "leaderboard.harness.arc.fewshot=100000": "have to fit into the model's context",
    "leaderboard.harness.seed=4294967296": "lm-eval's seed has 32 bits",
    f"seed=0x{'f' * 10000}": "an integer of 40,000 bits",
    f"seed={'9' * 5000}": "4300 digits",
    # values of the wrong kind
    "seed=2024-01-01": "valid integer",
    "seed=[1, 2]": "valid integer",
    "seed={a: 1}": "valid integer",
    "seed=yes": "valid integer",
    "seed=!!python/object/apply:os.system ['touch pwned']": "could not determine a constructor",
    "rft=5": "valid dictionary",
    "sft_matched.learning_rates=[]": "at least 1 item",
    "irft.training.objective=cubic": "'logistic', 'identity'",
    "=3": "is not an override",
    "irft..rounds=3": "unknown parameter 'irft.'",
    "seed=&a [*a]": "inside of what it stands for",
    f"seed={'[' * 20000}": "levels deep",
    f"description='{'x' * 30000}'": "30,000 characters, more than",
}  # fmt: skip


def bomb(levels: int = 12) -> str:
    """A list of 10 ** levels, in a few hundred bytes."""
    lines = ["- &a0 [x, x]", *(f"- &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels))]
    return "\n".join(["seed:", *(f"  {line}" for line in lines)])


def _written(text: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "bad.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


def _quickstart(folder: Path) -> Path:
    path = folder / "bad.yaml"
    path.write_bytes(QUICKSTART.read_bytes())
    return path


def _extends_through_a_link(folder: Path) -> Path:
    (folder / "other.yaml").symlink_to("bad.yaml")
    return _written("extends: other.yaml\nname: bad\n")(folder)


def _extends_out_of_the_folder(folder: Path) -> Path:
    (folder.parent / "secret.txt").write_text(f"{CONTENT}: 1\n")
    (folder / "other.yaml").symlink_to(folder.parent / "secret.txt")
    return _written("extends: other.yaml\nname: bad\n")(folder)


def _extends_a_circle(folder: Path) -> Path:
    (folder / "one.yaml").write_text("extends: two.yaml\nname: one\n")
    (folder / "two.yaml").write_text("extends: one.yaml\nname: two\n")
    return _written("extends: one.yaml\nname: bad\n")(folder)


def _extends_a_link_in_a_circle(folder: Path) -> Path:
    (folder / "other.yaml").symlink_to("other.yaml")
    return _written("extends: other.yaml\nname: bad\n")(folder)


def _extends_a_chain(folder: Path) -> Path:
    for number in range(30):
        (folder / f"r{number}.yaml").write_text(f"extends: r{number + 1}.yaml\n")
    return _written("extends: r0.yaml\n")(folder)


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "aliases that stand for gigabytes": (_written(bomb()), "aliases counted with all that they stand for"),
    "merge keys that stand for gigabytes": (
        _written("a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{p: *a{n - 1}, q: *a{n - 1}}}\n" for n in range(1, 60))),
        "aliases counted with all that they stand for",
    ),
    "an alias to itself": (_written("seed: &a {b: *a}\n"), "bad.yaml:1: an alias without its anchor"),
    "50,000 open brackets": (_written("seed: " + "[" * 50_000), "bad.yaml:1: nested more than 50 levels deep"),
    "50,000 open braces": (_written("seed: " + "{a: " * 50_000), "bad.yaml:1: nested more than 50 levels deep"),
    "indented 1,000 levels": (
        _written("".join(f"{' ' * n}a:\n" for n in range(1000))),
        "bad.yaml:51: nested more than 50 levels deep",
    ),
    "not UTF-8": (_written(b"name: bad\ndescription: caf\xe9\n"), "bad.yaml:2: not UTF-8"),
    "UTF-16": (_written("name: bad\n".encode("utf-16")), "bad.yaml:1: not UTF-8"),
    "a NUL": (_written(b"name: bad\nseed: \x001\n"), "bad.yaml:2: invalid YAML: a control character"),
    "a duplicate key": (
        _written(f"seed: {CONTENT}\nseed: 2\n"),
        'bad.yaml:2: invalid YAML: found duplicate key "seed"',
    ),
    "a number for a key": (_written("7: 1\nname: bad\n"), "the key 7 is not text"),
    "null for a key": (_written("~: 1\nname: bad\n"), "the key None is not text"),
    "a list for a key": (_written("? [a]\n: 1\n"), "is not text"),
    "a mapping for a key": (_written("? {a: 1}\n: 1\n"), "invalid YAML: found unhashable key"),
    "an impossible date": (_written("seed: 2024-99-99\n"), "invalid YAML: month must be in 1..12"),
    "a binary value": (_written("seed: !!binary x\n"), "invalid YAML: failed to decode base64"),
    "a Python object": (_written("seed: !!python/name:os.system\n"), "bad.yaml:1: invalid YAML: could not determine"),
    "two documents": (_written("seed: 1\n---\nseed: 2\n"), "invalid YAML: but found another document"),
    "an open quote": (_written("name: 'bad\n"), "invalid YAML: found unexpected end of stream"),
    "a tab for an indent": (_written("sft:\n\tepochs: 1\n"), "bad.yaml:2: invalid YAML"),
    "a list": (_written("- a\n- b\n"), "is not a YAML mapping"),
    "a text": (_written("hello"), "is not a YAML mapping"),
    "nothing": (_written(""), "is not a YAML mapping"),
    "10 MB": (_written("# " + "x" * 10**7), "more than the 8,388,608 that are read"),
    "600,000 values": (_written("seed: [" + "1, " * 600_000 + "]"), "more than 500,000 values"),
    "a password in it": (
        _written(QUICKSTART.read_text() + "register: {tracking_uri: 'https://u:hunter2@h'}\n"),
        "contains a password or token",
    ),
    "extends itself": (_written("extends: bad.yaml\n"), "bad.yaml extends itself"),
    "extends itself by a link": (_extends_through_a_link, "other.yaml extends itself"),
    "extends itself by another path": (_written("extends: ../recipes/bad.yaml\n"), "is not a file name"),
    "extends in a circle": (_extends_a_circle, "one.yaml extends itself"),
    "extends a link in a circle": (_extends_a_link_in_a_circle, "other.yaml"),
    "extends a chain of 30": (_extends_a_chain, "more than 10 recipes extend each other"),
    "extends a file by a link": (_extends_out_of_the_folder, "is a link to a file outside of this folder"),
    "extends a file of the system": (_written("extends: /etc/passwd\n"), "is not a file name"),
    "extends a file above": (_written("extends: ../secret.txt\n"), "is not a file name"),
    "extends a device": (_written("extends: /dev/zero\n"), "is not a file name"),
    "extends nothing": (_written("extends: hole.yaml\n"), "no such recipe: hole.yaml"),
    "extends a list": (_written("extends: [a]\n"), "is not a file name"),
}


def _edited(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], Path]:
    """A params.yaml that someone changed by hand."""

    def make(folder: Path) -> Path:
        yaml = YAML(typ="safe")
        values = yaml.load((ROOT / "params.yaml").read_text())
        change(values)
        text = io.StringIO()
        yaml.dump(values, text)
        path = folder / "params.yaml"
        path.write_text(text.getvalue())
        return path

    return make


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values[parent]
    values[last] = value


EDITS: dict[str, tuple[Any, str]] = {
    "graph.base": ("models/world/policy; touch pwned", "graph.base does not follow from the recipe"),
    "graph.scorer": ("$(touch pwned)", "graph.scorer does not follow"),
    "graph.sources.source": ("`touch pwned`", "graph.sources.source does not follow"),
    "graph.table": ("a\nb", "graph.table does not follow"),
    "graph.irft.r1.part": ("all; touch pwned", "graph.irft.r1.part does not follow"),
    "graph.irft.r2.previous": ("models/sft || touch pwned", "rounds are not a chain"),
    "graph.rft.r1.reward": ("&touch pwned", "graph.rft.r1.reward does not follow"),
    "graph.downloads": ({"policy": {"model": "a/b", "revision": "x; touch pwned"}}, "graph.downloads"),
    "graph.tiny": ({"policy": {"config": "x; touch pwned"}}, "graph.tiny"),
    "graph.pretrain": ({"world; touch pwned": "recipes/absent"}, "graph.pretrain"),
    "graph.mirror": ({"hub": "; touch pwned"}, "graph.mirror"),
    "graph.benchmarks": ("x; touch pwned", "graph.benchmarks does not follow"),
    "graph.models.sft.method": ("sft; touch pwned", "graph.models.sft.method does not follow"),
    "graph.decisions": ("x; touch pwned", "graph.decisions does not follow"),
    "graph.comparisons": (
        {"rft-r1": {"before": "x; touch pwned", "earlier": "recipes/absent", "criterion": "score", "most": 6}},
        "graph.comparisons.rft-r1 does not follow",
    ),
    "graph.rounds": ({"rft": {"ran": 9, "kept": 9}}, "graph.rounds.rft does not follow"),
    "graph.leaderboard_table": ("-x", "graph.leaderboard_table does not follow"),
    "policy.revision": ("main; touch pwned #", "is not a commit"),
    "policy.model": ("-x", "begins with a dash"),
    "leaderboard.mirror": ("x\0y", "contains the character"),
    "register.tracking_uri": ("https://u:hunter2@h", "contains a password or token"),
    "irft.rounds": (10**30, "must be at most 100"),
}


def cases() -> Iterator[Case]:
    """All bad recipes."""
    for override, says in OVERRIDES.items():
        if says:
            yield Case(f"override {override[:60]}", "recipe", _quickstart, says, (override,))
    for name, (make, says) in FILES.items():
        yield Case(name, "recipe", make, says)
    for key, (value, says) in EDITS.items():

        def change(values: dict[str, Any], key: str = key, value: Any = value) -> None:
            _set(values, key, value)

        yield Case(f"params.yaml with another {key}", "params", _edited(change), says)
