"""Which rate a reward model's head wants: cross-validated on the pairs that train the judge, with the trunk as it is.

    juicer run recipes/smollm2-hh-cpu.yaml --until fetch
    python -m bench.head_rate recipes/smollm2-hh-cpu.yaml

A head starts at random weights of 0.02, so at the rate of a trunk it stays where it started. The trunk is read once per
pair; the heads are then trained on what it gave. Folds are of prompts, and the pairs on which the judge's accuracy is
measured are not among them. The recipe's policy and data must be there.
"""

import argparse
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from juicer.data.dialogues import Dialogue
    from juicer.recipe.schema import Recipe

RATES = (3e-5, 1e-3, 3e-3, 1e-2, 3e-2)
EPOCHS = (1, 2, 8)
FOLDS, REPEATS, BATCH, DEVIATION = 5, 2, 16, 0.02


def features(recipe: "Recipe", raw: Path, most: int | None) -> tuple["torch.Tensor", list[str]]:
    """What the trunk gives at the last token of the judge's pairs, and their prompts.

    Returns (pairs, 2, width) float32, the chosen response first.
    """
    import torch

    from juicer.data import demonstrations
    from juicer.methods.preferences import pairs_of
    from juicer.methods.reward import load_reward
    from juicer.models.loading import load_template
    from juicer.scorers.sequence_classification import SequenceClassificationScorer
    from juicer.settings.data import ScorerSettings
    from juicer.sources.curation import side_of

    assert recipe.preferences is not None and recipe.preferences.judge is not None
    settings, trunk = recipe.preferences.judge, Path(recipe.policy.model)
    template = load_template(trunk, recipe.template)
    model = load_reward(trunk, recipe.compute, 0, torch.float32).eval()
    scorer = SequenceClassificationScorer(model, template.tokenizer, ScorerSettings(kind="sequence-classification"))
    found: list[list[torch.Tensor]] = []
    prompts: list[str] = []

    @torch.no_grad()
    def last(dialogue: "Dialogue") -> torch.Tensor:
        tokens = torch.tensor([[*dialogue.prompt, *dialogue.response]])
        return model.base_model(input_ids=tokens).last_hidden_state[0, -1]

    withheld = recipe.preferences.withheld
    for row in demonstrations.read(raw / "demonstrations.jsonl"):
        if side_of(row.split_hash(), recipe.curate, False, withheld) != "judge" or len(found) == most:
            continue
        pairs = pairs_of([row], settings, scorer.encoder.encode, scorer.refusals).training
        found += [[last(pair.demonstration), last(pair.sample)] for pair in pairs]
        prompts += [row.split_hash() for _ in pairs]
    return torch.stack([torch.stack(pair) for pair in found]), prompts


def accuracy(given: "torch.Tensor", prompts: Sequence[str], rate: float, epochs: int) -> float:
    """Share of the pairs, each outside the folds that trained the head, in which it prefers the chosen response."""
    import torch

    differences, rng, right = given[:, 0] - given[:, 1], random.Random(0), 0
    for repeat in range(REPEATS):
        names = sorted(set(prompts))
        rng.shuffle(names)
        fold_of = {name: place % FOLDS for place, name in enumerate(names)}
        folds = torch.tensor([fold_of[name] for name in prompts])
        for fold in range(FOLDS):
            training, held_out = differences[folds != fold], differences[folds == fold]
            generator = torch.Generator().manual_seed(repeat)
            head = torch.nn.Parameter(DEVIATION * torch.randn(given.shape[-1], generator=generator))
            optimiser = torch.optim.AdamW([head], lr=rate, weight_decay=0.0)
            total = math.ceil(len(training) / BATCH) * epochs
            schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total)
            for _ in range(epochs):
                for batch in torch.randperm(len(training), generator=generator).split(BATCH):
                    optimiser.zero_grad()
                    torch.nn.functional.softplus(-training[batch] @ head).mean().backward()
                    optimiser.step()
                    schedule.step()
            right += int((held_out @ head.detach() > 0).sum())
    return right / (REPEATS * len(differences))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe with a judge from pairs of its own rows")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="folder that fetch wrote")
    parser.add_argument("--pairs", type=int, help="read no more pairs than this")
    given = parser.parse_args()

    import torch

    from juicer.recipe.activation import load

    recipe, _ = load(Path(given.recipe), [])
    torch.set_num_threads(recipe.compute.threads)
    read, prompts = features(recipe, given.raw, given.pairs)
    print(f"{len(prompts)} pairs; accuracy of a head by rate and epochs, {FOLDS} folds, {REPEATS} repeats")
    print(f"| rate | epochs: {' | '.join(map(str, EPOCHS))} |\n|{'---|' * (len(EPOCHS) + 1)}")
    for rate in RATES:
        print(f"| {rate:g} | {' | '.join(f'{accuracy(read, prompts, rate, each):.3f}' for each in EPOCHS)} |")


if __name__ == "__main__":
    main()
