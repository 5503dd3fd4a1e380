"""Has the policy passed its teacher? What the reward of RFT says about that, without labels.

The reward learns to tell demonstrations from the policy's own samples. As long as the policy is worse than its
demonstrations, that is what should be maximised. Once it is better, the reward turns round: it still learns to prefer
demonstrations, and now leads back to them. On prompts that it is not trained on this shows in two ways: it no longer
prefers the demonstrations, or it ranks the same responses in another order than the reward of the round before.
"""

import math
from typing import NamedTuple

from torch import Tensor


class Watched(NamedTuple):
    """Rewards of a demonstration and of a fresh sample to each of some prompts, (prompts,) each."""

    demonstrations: Tensor
    samples: Tensor


def watch(after: Watched, before: Watched | None) -> dict[str, float]:
    """Facts about a round's reward, for the record of its training.

    Args:
        after: rewards on validation prompts after the round's training; at least one.
        before: of the same responses by the reward of the round before; None in the first round.

    Returns:
        demonstrations_preferred: share of prompts where the demonstration's reward is the higher one, ties half; 1/2 is
            a coin, and below 1/2 the policy is better than its demonstrations by the reward's own measure.
        demonstrations_preferred_before: the same by the reward of the round before.
        agreement: rank correlation (Spearman) of the two rewards over all responses; below 0 the reward has turned
            round. Absent where one of them is constant.
        drift: mean change of the reward, in standard deviations of the reward before. Absent where that is zero.
    """
    facts = {"demonstrations_preferred": _preferred(after)}
    if before is None:
        return facts
    from scipy.stats import spearmanr

    facts["demonstrations_preferred_before"] = _preferred(before)
    old, new = ([*each.demonstrations.tolist(), *each.samples.tolist()] for each in (before, after))
    mean = math.fsum(old) / len(old)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in old) / len(old))
    if deviation and len(set(new)) > 1:
        facts["agreement"] = round(float(spearmanr(old, new).statistic), 6)
    if deviation:
        facts["drift"] = round((math.fsum(new) / len(new) - mean) / deviation, 6)
    return facts


def _preferred(rewards: Watched) -> float:
    higher = (rewards.demonstrations > rewards.samples).float() + (rewards.demonstrations >= rewards.samples).float()
    return round(float(higher.mean()) / 2, 6)
