"""``--data text:PATH``: texts with the model's own tokenizer, in every inspecting command."""

import json
import re

import pytest
import torch

import torchvision_on_cpu  # noqa: F401 - before transformers
from secateurs.cli import ExitCode, main
from secateurs.study.history import History

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
LINES = [" ".join(WORDS[(n * k) % 9] for k in range(1, 3 + n % 7)) for n in range(60)]


@pytest.fixture
def texts(place):
    (place / "book.txt").write_text("\n".join(LINES))
    rows = [{"text": line, "label": int("fox" in line)} for line in LINES]
    (place / "rated.jsonl").write_text("\n".join(map(json.dumps, rows)))
    torch.manual_seed(0)
    known = {word: number for number, word in enumerate(["[PAD]", "[MASK]", "[UNK]", *WORDS])}
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "mask", "unk")}
    reader = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, special["unk_token"]))
    reader.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    reader = transformers.PreTrainedTokenizerFast(tokenizer_object=reader, **special)
    small = {"vocab_size": len(known), "hidden_size": 16, "intermediate_size": 24}
    small |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}
    llama = transformers.LlamaConfig(**small, num_key_value_heads=1, bos_token_id=0, eos_token_id=0)
    bert = transformers.BertConfig(**small)
    models = {
        "llama": transformers.LlamaForCausalLM(llama),
        "bert": transformers.BertForMaskedLM(bert),
        "rated": transformers.BertForSequenceClassification(bert),
    }
    for name, one in models.items():
        one.save_pretrained(place / name)
        if name != "rated":
            reader.save_pretrained(place / name)
    return place


@pytest.mark.parametrize(
    ("model", "more", "judged"),
    [
        ("llama", ("text:book.txt",), "Perplexity on 9 validation examples"),
        ("bert", ("text:book.txt", "--size", "6"), "Perplexity on 9 validation examples"),
        ("rated", ("text:rated.jsonl", "--tokenizer", "bert"), "Accuracy on 9 validation examples"),
    ],
)
def test_a_cut_is_calibrated_and_judged_by_what_the_model_learns(
    texts, model, more, judged, capsys
):
    wanted = ("--budget", "macs=0.8", "--output", "small.safetensors")
    with pytest.warns(UserWarning, match="calibration texts are few"):
        assert main(["prune", f"transformers:{model}", *wanted, "--data", *more]) == ExitCode.FINE
    assert judged in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_studies_curves_and_ablations_of_texts(texts, capsys):
    study = ("--train-batches", "1", "--fine-tune-batches", "1", "--rounds", "1", "--quiet")
    options = ("transformers:llama", "--data", "text:book.txt")
    assert main(["run", *options, *study, "--directory", "s", "--tolerance", "9"]) == ExitCode.FINE
    history = History.load(texts / "s" / "history.jsonl")
    assert history[0]["metric"]["name"] == "perplexity"
    assert main(["run", "--resume", "s", "--quiet"]) == ExitCode.FINE
    masked = ("transformers:bert", "--data", "text:book.txt", "--images", "8")
    assert main(["sensitivity", *masked, "--amounts", "0.5"]) == ExitCode.FINE
    found = json.loads((texts / "sensitivity" / "sensitivity.json").read_text())
    assert found["metric"]["name"] == "perplexity"
    assert main(["ablate", *masked, "--mode", "racing"]) == ExitCode.FINE
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("transformers:rated", "--data", "text:rated.jsonl"), "expected a directory with a tok"),
        (("transformers:llama", "--data", "text:none.txt"), "no such path"),
        (("resnet18", "--data", "text:book.txt"), "--task: expected the task of a text model"),
        (("resnet18", "--data", "text:book.txt", "--task", "classification"), "expected a tokeniz"),
        (("resnet18", "--data", "digits", "--task", "classification", "--tokenizer", "bert"),
         "--tokenizer: expected --data text:PATH"),
        (("transformers:llama", "--data", "text:book.txt", "--crop", "0.5"), "expected no crop"),
    ],
)  # fmt: skip
def test_what_lacks_or_does_not_go_with_texts_is_told(texts, arguments, message, capsys):
    assert main(["prune", *arguments, "--budget", "macs=0.8"]) == 2
    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1
    assert not list(texts.glob("*.safetensors"))
