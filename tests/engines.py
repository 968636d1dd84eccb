"""Small real engines, and what they are like in processes that die, for tests of where they run."""

import os
import signal
import time

from ingest.language.acoustic import Acoustic
from ingest.language.engines import Transformers

TEMPLATE = "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
DEADLY = "deadly"


def write_llama(folder, positions=128):
    """A folder with a Llama of random weights, that takes so many tokens, and a tokenizer of bytes, as transformers saves them."""
    import torch  # here, as every process that runs an engine of this module imports it
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"<s>": 0, "</s>": 1} | {letter: i for i, letter in enumerate(alphabet, 2)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=positions,
        initializer_range=0.5, bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class DeadlyModel(Transformers):
    """One that a word kills."""

    def complete(self, prompts):
        if any(DEADLY in prompt for prompt in prompts):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().complete(prompts)


def deadly_model(folder, max_tokens=12):
    """As stages load them."""
    return DeadlyModel(folder, max_tokens=max_tokens, device="cpu")


class DeadlyCaptioner(Acoustic):
    """One that a file kills."""

    def caption(self, paths):
        if any(path.name == "012.wav" for path in paths):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().caption(paths)


def deadly_captioner(_):
    """As the stage loads them."""
    return DeadlyCaptioner()


class Kind:
    """Work on a device whose kind is another on every node. None is done before two processes are at it."""

    def __init__(self):
        import ray

        self.device = f"gpu of node {ray.get_runtime_context().get_node_id()}"

    def __call__(self, folder):
        (folder / str(os.getpid())).touch()
        deadline = time.monotonic() + 120
        while len(list(folder.iterdir())) < 2:
            if time.monotonic() > deadline:
                raise TimeoutError("no other process came")
            time.sleep(0.05)
