"""vLLM in a process of its own: reads messages on standard input, answers on standard output, a JSON object a line.

It runs by the Python of vLLM's environment (`juicer.sampling.vllm_engine` starts it), so it imports nothing but the
standard library and vLLM. The messages, of which the first is `load`:

    {"load": {...}}                                       arguments of vllm.LLM        -> {"ready": vLLM's version}
    {"sample": [[prompt, own], ...], "parameters": {}}    -> {"ended": n} as they end, {"samples": [[tokens, sum, end]]}
    {"reload": folder}                                    takes the weights in there   -> {"reloaded": folder}
    {"adapt": folder}                                     takes the adapters in there  -> {"adapted": folder}

`own` and `parameters` are arguments of vllm.SamplingParams, `sum` is a response's log-probability in nats, and `end`
vLLM's finish reason. Adapters take the place of those before. What fails is answered with {"error": one line}. The
process ends when standard input does, or with its parent.
"""

import ctypes
import json
import os
import queue
import signal
import threading
from contextlib import suppress
from typing import Any, TextIO

ADAPTERS = "policy"
"""vLLM's name of the adapters."""
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when the thread that started it ends."""


def end_with_parent() -> None:
    """End this process when its parent ends, for whatever reason; does nothing on other systems than Linux."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Bar:
    """What vLLM takes for its progress bar: tells how many responses have ended."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self.n, self.postfix, self.format_dict = 0, "", {"elapsed": 1.0}

    def update(self, count: int) -> None:
        """Note more responses that have ended."""
        self.n += count
        say(self._answers, {"ended": count})

    def refresh(self) -> None:
        """Nothing is drawn."""

    def close(self) -> None:
        """Nothing is drawn."""


def say(answers: TextIO, message: dict[str, Any]) -> None:
    """Write one message."""
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def sample(
    llm: Any, adapters: Any, requests: list[list[Any]], parameters: dict[str, Any], answers: TextIO
) -> list[list[Any]]:
    """Token ids, log-probability and finish reason of a response to each request, a prompt and its own parameters."""
    from vllm import SamplingParams

    def bar(prompts: Any = None, **_: Any) -> Any:
        """vLLM shows one bar over the prompts that it reads, and one for the responses."""
        return Bar(answers) if prompts is None else prompts

    each = [SamplingParams(**parameters, **own) for _, own in requests]
    prompts = [{"prompt_token_ids": prompt} for prompt, _ in requests]
    found = [made.outputs[0] for made in llm.generate(prompts, each, use_tqdm=bar, lora_request=adapters)]
    return [[list(one.token_ids), float(one.cumulative_logprob), one.finish_reason] for one in found]


def load(options: dict[str, Any]) -> Any:
    """A vLLM engine."""
    from vllm import LLM

    return LLM(**options, trust_remote_code=False)


def reload(llm: Any, folder: str) -> None:
    """Take other weights of the same model, in place, and forget what was computed with the ones before."""
    llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
    forget(llm)


def adapt(llm: Any, folder: str) -> Any:
    """Read LoRA adapters, and forget what was computed with the ones before; returns what names them in requests."""
    from vllm.lora.request import LoRARequest

    llm.llm_engine.add_lora(LoRARequest(ADAPTERS, 1, folder, load_inplace=True))
    forget(llm)
    return LoRARequest(ADAPTERS, 1, folder)


def forget(llm: Any) -> None:
    """Forget keys and values of earlier weights."""
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM did not forget the keys and values of the weights before")


def answer(messages: "queue.SimpleQueue[str]", answers: TextIO) -> None:
    """Answer messages, in this thread, for ever."""
    llm, adapters = None, None
    while True:
        try:
            message = json.loads(messages.get())
            if "load" in message:
                llm = load(message["load"])
                import vllm

                say(answers, {"ready": vllm.__version__})
            elif "sample" in message:
                say(answers, {"samples": sample(llm, adapters, message["sample"], message["parameters"], answers)})
            elif "adapt" in message:
                adapters = adapt(llm, message["adapt"])
                say(answers, {"adapted": message["adapt"]})
            else:
                reload(llm, message["reload"])
                say(answers, {"reloaded": message["reload"]})
        except Exception as error:
            say(answers, {"error": " ".join(f"{type(error).__name__}: {error}".split())})


def read(lines: TextIO, messages: "queue.SimpleQueue[str]") -> None:
    """Pass on messages; at their end, end this process and all that it has started, whatever they are doing."""
    with suppress(OSError, ValueError):
        for line in lines:
            messages.put(line)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Read and answer messages until standard input ends."""
    end_with_parent()
    os.register_at_fork(after_in_child=end_with_parent)
    # A terminal and a cancelled run signal the whole group; the parent decides what that means for the work under way.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # vLLM and its libraries print to standard output.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    messages: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=read, args=(lines, messages), daemon=True).start()
    answer(messages, answers)


if __name__ == "__mp_main__":  # in a process that vLLM starts anew, which imports this file under that name
    end_with_parent()
elif __name__ == "__main__":
    main()
