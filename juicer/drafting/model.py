"""A model that is named on the command line: found, pinned to a commit, and described by its small files."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from juicer.models.folder import check_no_adapter, context_of, read_config_values, read_small_json
from juicer.models.shape import Shape
from juicer.planning.costs import Role, shape_of
from juicer.recipe.graph import CONFIGS, HUB_ID, config_of
from juicer.recipe.inputs import TOKENIZERS
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml, value_at

if TYPE_CHECKING:
    from juicer.data.template import Template

DEFAULT = Path("recipes/hh-sft.yaml")
"""The recipe whose policy is taken where none is named."""
SMALL = ["config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt"]
SMALL += ["added_tokens.json", "chat_template.*"]
"""The files of a hub model that are read here: no weights."""
SECONDS = 10
"""How long the hub may take to answer."""
BYTES_PER_TOKEN = 3
"""Of a text whose tokenizer is not here; English has some 4, so that limits are rather too long than too short."""


@dataclass(frozen=True)
class Model:
    """A model by its small files."""

    name: str
    """Folder, or id of the hub, as the recipe has it."""
    revision: str | None
    """Commit of a hub model."""
    shape: Shape
    context: int | None
    """Tokens; None if it has no limit."""
    architecture: str
    precision: str
    """What its weights are stored in, by its config.json."""
    folder: Path | None
    """Where its tokenizer is; None if that is not here."""
    note: str = ""
    """How it was found, as a clause."""
    created: Path | None = None
    """The config.json that was kept for it just now."""

    def __str__(self) -> str:
        size = self.shape.parameters
        shown = f"{size / 1e9:.1f}B" if size >= 1e9 else f"{size / 1e6:,.1f}M"
        context = f"context {self.context:,}" if self.context else "no limit of its context"
        return f"{self.name}: {self.architecture}, {shown} parameters in {self.precision}, {context}"


def find_model(given: str | None, revision: str | None, role: Role, option: str, *, keep: bool = True) -> Model:
    """The model that an option names.

    Args:
        given: a folder, relative to the project, or an id of the hub; None takes the policy of recipes/hh-sft.yaml.
        revision: commit of a hub model; None looks its branch main up.
        role: decides the output head.
        option: names the model in errors.
        keep: whether the config.json of a hub model is kept in recipes/models/, where a plan finds it.

    Raises:
        InputError: there is no such model, it cannot be read, or the hub cannot be asked.
    """
    if given is None:
        values = read_yaml(DEFAULT)
        name, commit = str(value_at(values, "policy.model")), revision or str(value_at(values, "policy.revision"))
        return _of_hub(name, commit, role, option, f"the default, as in {DEFAULT}; choose with --model", keep)
    folder = Path(given)
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"{given} is a folder, which has no revision", where=option, do="leave --revision out")
        check_no_adapter(folder)
        return _described(given, None, role, folder, folder / "config.json", "")
    if given.startswith((".", "/", "~")) or not HUB_ID.fullmatch(given):
        raise InputError(f"no such folder: {given}", where=option, do="name a model folder, or an id of the hub")
    return _of_hub(given, revision or pinned(given, option), role, option, "", keep)


def pinned(model: str, option: str) -> str:
    """The commit that the branch main of a hub model points to.

    Raises:
        InputError: the hub cannot be asked; says what to do without.
    """
    from huggingface_hub import HfApi

    try:
        commit = HfApi().model_info(model, revision="main", timeout=SECONDS).sha
    except Exception as error:  # whatever the network and the hub's client raise
        what = f"the hub cannot be asked for the commit of {model} ({type(error).__name__})"
        do = f"give --revision COMMIT and save its config.json as {_kept(model)}; or name a model folder"
        raise InputError(what, where=option, do=do) from error
    if commit is None:
        raise InputError(f"the hub names no commit of {model}", where=option, do="give --revision COMMIT")
    return commit


def _kept(model: str) -> Path:
    return CONFIGS / f"{Path(model).name}.json"


def _of_hub(model: str, revision: str, role: Role, option: str, note: str, keep: bool) -> Model:
    folder = _downloaded(model, revision)
    kept, fresh = _kept(model), None if folder is None else folder / "config.json"
    if fresh is None or not fresh.is_file():
        return _described(model, revision, role, None, config_of(model, option), note)
    if kept.is_file():
        if read_small_json(kept) != read_small_json(fresh) and read_yaml(DEFAULT)["policy"]["model"] != model:
            note = "; ".join(filter(None, [note, f"{kept} is not its config.json, and a plan reads that"]))
    elif keep:
        described = _described(model, revision, role, folder, fresh, note)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(fresh, kept)
        note = "; ".join(filter(None, [note, f"its config.json is kept as {kept}"]))
        return replace(described, note=note, created=kept)
    return _described(model, revision, role, folder, fresh, note)


def _downloaded(model: str, revision: str) -> Path | None:
    """A folder with the small files of a hub model; None where there is no network and no copy."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    for local in (True, False):
        try:
            if not local:
                # Fails at once without a network, where a download would be tried again and again.
                HfApi().model_info(model, revision=revision, timeout=SECONDS)
            folder = snapshot_download(
                model, revision=revision, allow_patterns=SMALL, etag_timeout=SECONDS, local_files_only=local
            )
        except Exception:  # noqa: S112  no network is no failure: what is needed is said by what reads the folder
            continue
        if any((Path(folder) / name).is_file() for name in TOKENIZERS):
            return Path(folder)
    return None


def _described(model: str, revision: str | None, role: Role, folder: Path | None, config: Path, note: str) -> Model:
    from juicer.quickstart.configuration import read_config

    values: dict[str, Any] = read_small_json(config) if folder is None else read_config_values(folder)
    architecture, configuration = read_config(config)
    has_tokenizer = folder is not None and any((folder / name).is_file() for name in TOKENIZERS)
    shape = shape_of(Path(model).name, configuration, role)
    precision = str(values.get("dtype") or values.get("torch_dtype") or "float32")
    found = folder if has_tokenizer else None
    return Model(model, revision, shape, context_of(values), architecture, precision, found, note)


def kind_of_scorer(model: Model) -> str:
    """`scorer.kind`, by the model's architecture.

    Raises:
        InputError: it is no reward model.
    """
    if model.architecture.endswith("ForScore"):
        return "beaver"
    if model.architecture.endswith("ForSequenceClassification"):
        return "sequence-classification"
    what = f"{model.name} is a {model.architecture}, not a reward model"
    raise InputError(what, where="--scorer", do="name a LlamaForScore or a sequence classifier with one label")


@dataclass(frozen=True)
class Rendering:
    """The template that the recipe gets, and why."""

    template: "Template"
    arguments: dict[str, Any]
    why: str
    measured: bool
    """Whether lengths are those of the model's tokenizer; otherwise they are estimated from bytes."""


def rendering_of(model: Model) -> list[Rendering]:
    """The templates that the model's tokenizer takes, the best first; there is at least one.

    Raises:
        InputError: the tokenizer is damaged, or takes none.
    """
    from juicer.models.loading import load_template
    from juicer.settings.data import TemplateSettings

    if model.folder is None:
        why = "Anthropic's, because the model's tokenizer is not here"
        return [Rendering(_stand_in(), {}, why, measured=False)]
    found, refused = [], ""
    ways: tuple[tuple[dict[str, Any], str], ...] = (
        ({}, "the tokenizer's own chat template"),
        ({"enable_thinking": False}, "the tokenizer's own chat template, without thoughts"),
    )
    for arguments, why in ways:
        try:
            template = load_template(model.folder, TemplateSettings(name="model", arguments=arguments))
        except InputError as error:
            refused = refused or error.what
            continue
        found.append(Rendering(template, arguments, why, measured=True))
        break
    own = _has_template(model.folder)
    why = f"its own chat template cannot be used: {refused}" if own and not found else "the model has no chat template"
    if own and found:
        why = "its own chat template does not take most rows"
    found.append(Rendering(load_template(model.folder, TemplateSettings(name="hh")), {}, why, measured=True))
    return found


def _has_template(folder: Path) -> bool:
    from juicer.models.loading import load_tokenizer

    return bool(load_tokenizer(folder).chat_template)


def _stand_in() -> "Template":
    """The template hh with a tokenizer that has a token for every byte, for a model whose own is not here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from juicer.data.template import Template
    from juicer.settings.data import TemplateSettings

    end = "<|endoftext|>"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({character: number for number, character in enumerate([end, *alphabet])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end, clean_up_tokenization_spaces=False)
    return Template(tokenizer, TemplateSettings(name="hh"))
