"""What the stages that train with TRL share: arguments, sharding, progress, and checkpoints of a Hugging Face trainer.

These methods of TRL's and transformers' trainers are overridden. Most are private, so check them for every release:

| method | of | overridden in | why |
|---|---|---|---|
| `get_batch_samples` | transformers' Trainer | methods/sft.py | counts the rows and response tokens of each step |
| `compute_loss` | SFTTrainer | methods/sft.py | CPU only: prompt positions skip the output head |
| `training_step` | transformers' Trainer | methods/sft.py | CPU only: micro-batches of rows of similar length |
| `_generate_single_turn` | RLOOTrainer | methods/policy_alignment.py | responses come from our seeded sampler |
| `_get_per_token_logps_and_entropies` | RLOOTrainer | methods/policy_alignment.py | CPU only: as `compute_loss` |
| `_generate_and_score_completions` | RLOOTrainer | methods/policy_alignment.py | frees models; keeps activations |
| `_compute_loss` | RLOOTrainer | methods/policy_alignment.py | CPU only: uses them |
| `_get_train_sampler` | RLOOTrainer | methods/policy_alignment.py | a resumed run skips the orders already drawn |
| `_save_rng_state`, `_load_rng_state` | transformers' Trainer | here | a process saves the state of its own GPU only |

Two more assumptions: RLOOTrainer loads the KL reference from the path `policy.config._name_or_path`, and PPOTrainer of
TRL 1.12 finds trunk and head of a reward model by the names that `NormalisedReward` in methods/ppo.py has.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from juicer.models.loading import device_of, lower_precision
from juicer.runtime.context import Tracking, WorkContext
from juicer.runtime.errors import InputError
from juicer.runtime.processes import Processes
from juicer.settings.compute import ComputeSettings
from juicer.settings.training import OptimiserSettings
from juicer.training.backends import zero_configuration
from juicer.training.watching import CURVE, Watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VALUES = "values.{}.json"


def on_single_cpu(policy: "PreTrainedModel", processes: Processes) -> bool:
    """Whether the CPU path of SFT and RLOO applies (`juicer.methods` says what it changes): one process, no sharding.

    On a GPU TRL's fused loss skips prompt positions too. On a CPU TRL passes them through the output head and computes
    statistics of them, which the CPU path avoids.
    """
    return policy.device.type == "cpu" and processes.world_size == 1 and not processes.zero_stage


def trainer_arguments(
    optimiser: OptimiserSettings,
    compute: ComputeSettings,
    seed: int,
    scratch: Path,
    gradient_checkpointing: bool,
    tracking: Tracking,
) -> dict[str, Any]:
    """Arguments of every TRL trainer: the recipe's precision, device and schedule, no files, the trackers."""
    cpu = device_of(compute).type == "cpu"
    return {
        "output_dir": str(scratch),
        # Without `fused` AdamW takes one more copy of the trained weights on a GPU.
        "optim": "rmsprop" if optimiser.name == "rmsprop" else "adamw_torch" if cpu else "adamw_torch_fused",
        "learning_rate": optimiser.learning_rate,
        "lr_scheduler_type": "linear" if optimiser.schedule == "linear" else "constant_with_warmup",
        # transformers reads a number of warm-up steps below 1 as a share of all steps.
        "warmup_steps": optimiser.warmup_ratio,
        "max_grad_norm": optimiser.max_gradient_norm or 0.0,
        "weight_decay": 0.0,
        "use_cpu": cpu,
        "ddp_find_unused_parameters": False,
        # Under ZeRO DeepSpeed does the casting.
        "bf16": lower_precision(compute) and not compute.zero_stage,
        "gradient_checkpointing": gradient_checkpointing,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "save_on_each_node": True,  # each machine has its own checkpoints
        "report_to": list(tracking.report_to) or "none",
        "run_name": tracking.run_name,
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
        "dataloader_pin_memory": not cpu,
    }


def deepspeed_arguments(processes: Processes, policy: "PreTrainedModel", compute: ComputeSettings) -> dict[str, Any]:
    """Further arguments of a TRL trainer whose model DeepSpeed shards; the trainer fills in the batch sizes."""
    if not processes.zero_stage:
        return {}
    known = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    configuration = zero_configuration(processes.zero_stage, policy, lower_precision(compute))
    return {"deepspeed": configuration | dict.fromkeys(known, "auto")}


def progress_callback(stage: str, curves: Mapping[str, str], context: WorkContext, tokens_per_step: float = 0.0) -> Any:
    """A callback that shows progress, emits metrics, and ends training at the first loss that is not finite.

    Args:
        curves: the name of each curve that the context's observers receive, and the trainer's name of it.
        tokens_per_step: response tokens, where no sampler emits their count.
    """
    from tqdm import tqdm
    from transformers import TrainerCallback
    from transformers.trainer_utils import IntervalStrategy

    class ShowProgress(TrainerCallback):
        def __init__(self) -> None:
            self.bar: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert args.logging_strategy == IntervalStrategy.STEPS
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=stage, unit="step", disable=None, leave=False
            )

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update()
            context.steps(state.global_step, state.max_steps)
            if tokens_per_step:
                context.emit_tokens(tokens_per_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            for name in ("loss", "grad_norm"):
                value = float((logs or {}).get(name, 0.0))
                if not math.isfinite(value):
                    raise InputError(
                        f"{name} is {value} at step {state.global_step} of {state.max_steps}",
                        where=stage,
                        do="lower the learning rate, or check the data; nothing was saved",
                    )
            point = {name: float(logs[key]) for name, key in curves.items() if key in (logs or {})}
            if point:
                context.emit_metrics(state.global_step, **point)

    return ShowProgress()


def watch_callback(watch: Watch) -> Any:
    """A callback that adds what is measured of validation demonstrations to the trainer's log, which is resumed."""
    from transformers import TrainerCallback

    class WatchValidation(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:  # a resumed run has it
                self._measure(state)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._measure(state)

        def _measure(self, state: Any) -> None:
            if (value := watch.after(state.global_step)) is not None:
                state.log_history.append({CURVE: value, "step": state.global_step})

    return WatchValidation()


class LocalGpuRandomState:
    """A mixin, listed before a Hugging Face trainer, that saves the random state of this process's GPU only.

    The trainer of a distributed run would save the states of all visible GPUs, and so open a context on each.
    """

    def _save_rng_state(self, *given: Any) -> None:
        with _current_gpu_only():
            super()._save_rng_state(*given)  # type: ignore[misc]

    def _load_rng_state(self, *given: Any) -> None:
        with _current_gpu_only():
            super()._load_rng_state(*given)  # type: ignore[misc]


@contextmanager
def _current_gpu_only() -> Iterator[None]:
    cuda = torch.cuda.random
    original = cuda.get_rng_state_all, cuda.set_rng_state_all
    cuda.get_rng_state_all = lambda: [cuda.get_rng_state()]
    cuda.set_rng_state_all = lambda new_states: cuda.set_rng_state(next(iter(new_states)))
    try:
        yield
    finally:
        cuda.get_rng_state_all, cuda.set_rng_state_all = original


def checkpoint_callbacks(context: WorkContext, values: Callable[[], dict[str, Any]]) -> list[Any]:
    """The callback that saves the state of a Hugging Face trainer, in its own format; [] without a checkpoint.

    Resume with `trainer.train(resume_from_checkpoint=...)`. Optimiser, schedule and random state are in torch's
    format, which the trainer reads with `weights_only`, so they cannot run code. (DeepSpeed's state of sharded weights
    is in its own format and is read without that protection; it never leaves the project's folder.)

    Args:
        values: what else this process must know to resume; `saved_values` returns it, with the number of steps as
            `step`.
    """
    if context.checkpoint is None:
        return []
    processes, checkpoint = context.processes, context.checkpoint
    from safetensors.torch import save_model
    from transformers import TrainerCallback

    class SaveCheckpoint(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # A trainer that resumes after its last step would take one more.
            control.should_save = state.global_step < state.max_steps and checkpoint.due()

        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            written = Path(args.output_dir) / f"checkpoint-{state.global_step}"

            def write(folder: Path) -> None:
                weights = list(written.glob("model*.safetensors*"))
                for path in weights:
                    path.unlink()
                # transformers 5.23 writes the hub's tensor names and reads the module's. Where the two differ, as for
                # GPT-NeoX's output head, a resumed trainer would keep the initial tensor.
                if weights and not processes.zero_stage:
                    save_model(model, str(written / "model.safetensors"))
                for path in written.rglob("*"):
                    if path.is_file():
                        place = folder / path.relative_to(written)
                        place.parent.mkdir(parents=True, exist_ok=True)
                        path.replace(place)
                shutil.rmtree(written)
                # DeepSpeed writes `latest` on the first machine only, and reads it on every machine.
                for shards in folder.glob("global_step*"):
                    (folder / "latest").write_text(shards.name, encoding="utf-8")
                own = {**values(), "step": state.global_step}
                (folder / VALUES.format(processes.rank)).write_text(json.dumps(own), encoding="utf-8")

            checkpoint.save(write)

    return [SaveCheckpoint()]


def saved_values(folder: Path, processes: Processes) -> dict[str, Any]:
    """What `values` returned in this process when the state in `folder` was saved, and `step`."""
    values: dict[str, Any] = json.loads((folder / VALUES.format(processes.rank)).read_text(encoding="utf-8"))
    return values
