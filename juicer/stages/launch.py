"""Stages that run on several processes: they launch themselves again through accelerate, one process per GPU.

On several machines, each runs the same command with JUICER_MACHINES, JUICER_MACHINE_RANK (from 0) and
JUICER_MAIN_ADDRESS (host:port of machine 0) set; only the process with rank 0 writes. See docs/scale.md.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Self

from juicer.runtime.devices import card_in_use, peak_memory
from juicer.runtime.errors import Cancelled, InputError
from juicer.runtime.files import write_json
from juicer.settings.compute import ComputeSettings
from juicer.stages import stage as single
from juicer.stages.checkpoint import kept
from juicer.stages.gpus import take_gpus
from juicer.stages.stage import Stage

LOOPBACK = "127.0.0.1"


def main(run: Callable[[Stage], str], arguments: Callable[[argparse.ArgumentParser], None], doc: str | None) -> None:
    """As `juicer.stages.stage.main`, on as many processes as the recipe says."""

    @wraps(run)
    def on_several(stage: Stage) -> str:
        compute = stage.read("compute", ComputeSettings)
        if (compute.processes > 1 or compute.zero_stage) and "LOCAL_RANK" not in os.environ:
            stage.is_main = False
            stage.end_watch()  # one of the processes watches
            with stage.scratch() as scratch:
                launch(compute, scratch, stage.name)
            return ""

        from juicer.runtime.processes import join, leave

        stage.processes = join(compute)
        stage.is_main = stage.processes.rank == 0
        if not stage.is_main:
            os.environ["TQDM_DISABLE"] = "1"  # one progress bar is enough
        result = (single.followed(run) if stage.is_main else run)(stage)
        # A barrier: no process removes the checkpoint before the output is published.
        stage.peaks = stage.processes.gather(peak_memory())
        stage.cards = stage.processes.gather(card_in_use())
        leave()
        return result

    single.start(on_several, arguments, doc, launches=True)


def launch(compute: ComputeSettings, scratch: Path, stage: str) -> None:
    """Run this same command on `compute.processes` processes and wait for them; with locks on a GPU for each.

    Raises:
        InputError: a process failed, with its message; or the machines and GPUs do not fit the recipe.
        Cancelled: this process was cancelled, and the others have ended.
    """
    machines = Machines.described(compute)
    # A single process has taken its GPU before it decided to launch itself again.
    held = take_gpus(machines.processes) if compute.device != "cpu" and compute.processes > 1 else []
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    cuda = compute.device != "cpu" and torch.cuda.is_available()
    config = scratch / "accelerate.yaml"
    write_json(config, configuration(compute, torch.cuda.device_count() if cuda else None))
    if not cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    module = sys.modules["__main__"].__spec__
    assert module is not None
    words = ["--config_file", str(config), "--module", module.name, *sys.argv[1:]]
    logging.disable(logging.ERROR)  # a failure is reported in one line
    try:
        launch_command(launch_command_parser().parse_args(words))
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        told = failure.error_file_data.get("message")
        line = told["message"] if isinstance(told, dict) else f"process {rank} ended with code {failure.exitcode}"
        raise InputError(str(line)) from failed
    except SignalException as signalled:
        raise Cancelled(signalled.sigval, kept(stage)) from signalled
    finally:
        for lock in held:
            lock.release()


@dataclass(frozen=True)
class Machines:
    """The machines that a stage runs on, as the environment variables describe them to this one."""

    count: int
    rank: int
    """This machine's index, from 0."""
    host: str
    port: int
    """Where machine 0 listens; "" and 0 where it is the only one."""
    processes: int
    """Of the stage on this machine."""

    @classmethod
    def described(cls, compute: ComputeSettings) -> Self:
        """Read and check the variables.

        Raises:
            InputError: they describe no group of machines over which the processes can be divided.
        """
        machines, rank = (
            _integer(name, default) for name, default in (("JUICER_MACHINES", 1), ("JUICER_MACHINE_RANK", 0))
        )
        address = os.environ.get("JUICER_MAIN_ADDRESS", "")
        host, _, port = address.rpartition(":")
        if machines > 1 and not (host and port.isdigit()):
            do = "set it to host:port of machine 0, the same on every machine"
            raise InputError(f"JUICER_MACHINES is {machines} but JUICER_MAIN_ADDRESS is {address!r}", do=do)
        if not 0 <= rank < machines:
            what = f"JUICER_MACHINE_RANK is {rank}, but JUICER_MACHINES is {machines}"
            raise InputError(what, do="set a rank from 0 to JUICER_MACHINES - 1")
        if compute.processes % machines:
            what = f"compute.processes = {compute.processes} cannot be divided over {machines} machines"
            raise InputError(what, do="set compute.processes to a multiple of JUICER_MACHINES")
        alone = machines == 1
        return cls(machines, rank, "" if alone else host, 0 if alone else int(port), compute.processes // machines)


def configuration(compute: ComputeSettings, gpus: int | None) -> dict[str, Any]:
    """The configuration of `accelerate launch` on this machine.

    Args:
        gpus: GPUs of this machine; None computes on CPUs.

    Raises:
        InputError: as `Machines.described`; or this machine has too few GPUs.
    """
    machines = Machines.described(compute)
    here = machines.processes
    if gpus is not None and gpus < here:
        what = f"{here} processes are to run on this machine, which has {gpus} GPUs"
        raise InputError(what, do="lower compute.processes")
    return {
        "compute_environment": "LOCAL_MACHINE",
        # One process per GPU, or per share of the CPUs. The processes set up DeepSpeed themselves.
        "distributed_type": "MULTI_GPU",
        "use_cpu": gpus is None,
        "num_processes": compute.processes,
        "num_machines": machines.count,
        "machine_rank": machines.rank,
        "main_process_ip": machines.host or LOOPBACK,
        # 0 chooses a free port, because several stages may run at the same time.
        "main_process_port": machines.port,
        "same_network": True,
        "rdzv_backend": "static",
        "mixed_precision": "no",
        "main_training_function": "main",
    }


def _integer(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise InputError(f"{name} is {text!r}", where="environment", do="set it to a whole number")
    return int(text)
