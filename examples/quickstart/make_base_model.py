"""Train the quickstart's base model: a small Llama that has read Python's documentation.

It stands in for a model from the Hugging Face Hub, so that the quickstart needs no download. The
text is the documentation of the standard library as documents, not as questions and answers: the
model knows the words, and answering is left for fine-tuning to teach. Text, settings and seed
give the same model on one machine; it is trained once and kept until one of them changes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from pathlib import Path

import torch
from make_dataset import functions, modules
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

VOCABULARY, CONTEXT, SEED = 4096, 256, 1337
HIDDEN, LAYERS, HEADS = 128, 2, 4
BATCH, STEPS, PEAK_RATE, WARMUP = 4, 400, 6e-3, 20
END, USER, ASSISTANT, PADDING = "<|end|>", "<|user|>", "<|assistant|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def documents() -> list[str]:
    """Return one text per documented function: how it is called, then its documentation."""
    return [
        f"def {signature}:\n{documentation}\n"
        for name, tree in modules()
        for signature, documentation in functions(name, tree)
    ]


def trained_tokenizer(texts: list[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer for `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, USER, ASSISTANT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_windows(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Return int64[windows, CONTEXT + 1]: all documents in a seeded order, end to end."""
    end = tokenizer.token_to_id(END)
    encoded = tokenizer.encode_batch(texts)
    order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(SEED)).tolist()
    stream = [token for place in order for token in (*encoded[place].ids, end)]
    windows = len(stream) // (CONTEXT + 1)
    return torch.tensor(stream[: windows * (CONTEXT + 1)]).view(windows, CONTEXT + 1)


def new_model(tokenizer: Tokenizer) -> LlamaForCausalLM:
    """Return the untrained model; its weights depend on SEED alone."""
    torch.manual_seed(SEED)
    end, padding = tokenizer.token_to_id(END), tokenizer.token_to_id(PADDING)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN * 3,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=2 * CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=padding,
    )
    return LlamaForCausalLM(config)


def rate_share(step: int) -> float:
    """Return the share of the peak rate: linear warm-up, then cosine to a tenth."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.55 + 0.45 * math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))


def train(model: LlamaForCausalLM, windows: torch.Tensor) -> None:
    """Train `model` to predict the next token of `windows`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_share)
    order = torch.Generator().manual_seed(SEED)
    started = time.monotonic()
    for step in range(STEPS):
        batch = windows[torch.randint(len(windows), (BATCH,), generator=order)]
        logits = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            seconds = time.monotonic() - started
            print(f"step {step + 1:3} of {STEPS}  loss {loss.item():.2f}  {seconds:3.0f} s")


def save(folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """Write weights, configuration and tokenizer in the layout of the Hugging Face Hub."""
    model.save_pretrained(folder)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PADDING,
        model_max_length=2 * CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)


def recipe(texts: list[str]) -> str:
    """Return the digest of everything the model depends on: its text and this program."""
    content = json.dumps(texts).encode() + Path(__file__).read_bytes()
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    """Train and save the model unless the folder holds it already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="the folder to write the model to")
    folder: Path = parser.parse_args().output
    texts = documents()
    digest, marker = recipe(texts), folder / "recipe.sha256"
    if marker.exists() and marker.read_text() == digest:
        print(f"{folder}: the base model is there already")
        return
    folder.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    tokenizer = trained_tokenizer(texts)
    windows = token_windows(tokenizer, texts)
    model = new_model(tokenizer)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"training a base model of {parameters / 1e6:.1f} M parameters on {len(texts)} texts")
    train(model, windows)
    save(folder, model, tokenizer)
    marker.write_text(digest)
    print(f"{folder}: written")


if __name__ == "__main__":
    main()
