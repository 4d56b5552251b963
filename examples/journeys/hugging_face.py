"""A Hugging Face user: a directory goes in, a smaller one that stock loaders take comes out."""

import subprocess
import sys
from pathlib import Path

import torch
import transformers

import secateurs as sec

try:
    import peft
except ModuleNotFoundError:
    peft = None

AGAIN = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
given = torch.load(sys.argv[2])
with torch.no_grad():
    logits = model(given["ids"]).logits
    words = model.generate(given["ids"], max_new_tokens=6, do_sample=False)
    slow = model.generate(given["ids"], max_new_tokens=6, do_sample=False, use_cache=False)
assert torch.equal(words, slow)
print(float((logits - given["logits"]).abs().max()))
"""


def prepare() -> None:
    """What the user has: a Llama in a directory; small, and of random weights."""
    torch.manual_seed(0)
    configuration = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(configuration).save_pretrained("llama")


def add_adapters(directory: str) -> str:
    """LoRA on what was cut, where peft is installed; one step of it."""
    if peft is None:
        return "peft is not installed"
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    ids = torch.randint(3, 64, (2, 9))
    adapted(input_ids=ids, labels=ids).loss.backward()
    moved = sum(one.grad is not None for one in adapted.parameters())
    return f"LoRA: {moved} tensors have gradients"


def main() -> None:
    """Cut half of the multiplications, save, and load it where Secateurs is not."""
    prepare()
    model = transformers.AutoModelForCausalLM.from_pretrained("llama").eval()
    ids = torch.randint(3, 64, (1, 12))
    pruned = sec.prune(model, {"input_ids": ids}, "macs=0.6", uniform=True)
    small = pruned.model.eval()
    small.save_pretrained("small")
    print("cut in the configuration:", pruned.cut.fields)
    with torch.no_grad():
        torch.save({"ids": ids, "logits": small(ids).logits}, "given.pt")
    Path("again.py").write_text(AGAIN)
    done = subprocess.run(
        [sys.executable, "again.py", "small", "given.pt"],
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"largest difference in a fresh process: {float(done.stdout):.1e}")
    print(add_adapters("small"))


if __name__ == "__main__":
    main()
