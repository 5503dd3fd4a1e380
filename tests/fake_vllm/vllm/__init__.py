"""A stand-in for vLLM, as far as `juicer/sampling/vllm_worker.py` uses it: transformers and a loop.

It runs in a process of its own, by a stand-in for the Python of vLLM's environment (tests/fake_vllm_python.py).
FAKE_VLLM says how it misbehaves.
"""

import os
import sys
from types import SimpleNamespace

__version__ = "0.0"
MODE = os.environ.get("FAKE_VLLM", "")


class SamplingParams(SimpleNamespace):
    """The arguments of a request."""


class LLM:
    """One model."""

    def __init__(self, model, **options):
        print("vLLM prints to standard output", flush=True)
        if MODE == "no start":
            print("(EngineCore pid=7) ERROR ValueError: the model\nhas no head", file=sys.stderr, flush=True)
            raise RuntimeError("Engine core initialization failed. See root cause above.")
        assert options["trust_remote_code"] is False and options["logprobs_mode"] == "raw_logprobs"
        assert "max_num_seqs" not in options
        self._folder, self._model, self._known = model, None, {}
        self._rank = options["max_lora_rank"] if options.get("enable_lora") else 0
        self._dtype, self._adapted, self.llm_engine = options["dtype"], False, self
        if MODE == "stale":
            self._load()

    def _load(self):
        from transformers import AutoModelForCausalLM

        if self._model is None:
            given = {"dtype": self._dtype, "trust_remote_code": False}
            self._model = AutoModelForCausalLM.from_pretrained(self._folder, **given).eval()

    def add_lora(self, request):
        from peft import PeftConfig, PeftModel

        assert request.load_inplace
        if MODE == "no adapters":
            raise ValueError("the model takes no adapters")
        assert 0 < PeftConfig.from_pretrained(request.lora_path).r <= self._rank
        if MODE == "stale" and self._adapted:
            return
        self._load()
        plain = self._model.unload() if self._adapted else self._model
        self._model, self._adapted, self._known = PeftModel.from_pretrained(plain, request.lora_path).eval(), True, {}

    def collective_rpc(self, method, kwargs):
        assert method == "reload_weights"
        if MODE != "stale":
            self._folder, self._model, self._known = kwargs["weights_path"], None, {}
            self._load()  # the folder does not stay

    def reset_prefix_cache(self):
        return True

    def generate(self, prompts, parameters, use_tqdm, lora_request):
        assert (lora_request is not None) == self._adapted
        if MODE == "dies":
            os._exit(3)
        self._load()
        bar = use_tqdm(total=len(prompts))
        answers = []
        for prompt, wanted in zip(use_tqdm(prompts), parameters, strict=True):
            answers.append(SimpleNamespace(outputs=[self._answer(prompt["prompt_token_ids"], wanted)]))
            bar.update(1)
        bar.close()
        return answers

    def _log_pi(self, tokens):
        import torch

        if tokens not in self._known:
            with torch.no_grad():
                self._known[tokens] = self._model(input_ids=torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
        return self._known[tokens]

    def _answer(self, prompt, wanted):
        import torch

        generator, tokens, total = torch.Generator().manual_seed(wanted.seed), list(prompt), 0.0
        for _ in range(wanted.max_tokens):
            log_pi = self._log_pi(tuple(tokens))
            weights = (log_pi / wanted.temperature).exp()
            token = int(torch.multinomial(weights, 1, generator=generator))
            tokens.append(token)
            total += float(log_pi[token])
            if token in wanted.stop_token_ids:
                break
        reason = "stop" if tokens[-1] in wanted.stop_token_ids else "length"
        return SimpleNamespace(token_ids=tokens[len(prompt) :], cumulative_logprob=total, finish_reason=reason)
