"""What a preparation wrote, as its readers see it."""

import json

from data_ground import results
from finetune_trainer.text_tokenizer import text_tokenizer
from finetune_trainer.token_cache import fetch_prepared, open_cache
from preparation_bench import HOME


class Written:
    """One preparation of a bench: its summary, its report and its files."""

    def __init__(self, bench, folder, **spec):
        self.summary, self.report = bench.prepared(**spec)
        uri = self.report.artifacts[0].uri
        store = results().child(f"{HOME}/{uri.rpartition('/')[2]}")
        self.folder = fetch_prepared(store, self.report.artifacts[0].digest, folder)
        self.tokenizer = text_tokenizer(self.folder / "tokenizer")
        self.cache = open_cache(self.folder / "tokens/train")
        self.template = json.loads((self.folder / "template.json").read_text())

    def text(self, number=0, bit=0):
        start, end = self.cache.offsets[number : number + 2]
        ids, flags = self.cache.tokens[start:end], self.cache.flags[start:end]
        chosen = ids[flags & bit > 0] if bit else ids
        return self.tokenizer.decode(chosen.tolist())
