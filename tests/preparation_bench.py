"""A ready Dataset and a model on claims, on which tests prepare experiments."""

import json

import pytest

from data_ground import (
    RESULTS,
    dataset_config,
    dataset_spec,
    from_claim,
    identity,
    model_folder,
    reporter,
)
from finetune_api.run_config import PreparationConfig
from finetune_trainer import dataset_job
from finetune_trainer.prepare import run

HOME = "finetuneexperiments/default/faq-1"


class Bench:
    """A Dataset that is ready, a model on a claim, and experiments on them."""

    def __init__(self, ground):
        self.ground = ground

    def dataset(self, content, **spec):
        """Write a snapshot of JSON lines."""
        self.ground.put("faq.jsonl", content)
        config = dataset_config(dataset_spec(from_claim("faq.jsonl"), **spec))
        report = reporter(config)
        dataset_job.run(config, report)
        self.snapshot = report.artifacts[0]

    def model(self, **fields):
        """Write a model folder on the claim `models`."""
        return model_folder(self.ground.claims / "models/tiny", **fields)

    def config(self, *, attempt=1, allowed=(), seed=7, **spec):
        """Return the config of a preparation; dicts of `spec` are blocks of the experiment."""
        document = {
            "model": {"volumeClaim": {"claimName": "models", "path": "tiny"}},
            "dataset": {"name": "faq"},
            "compute": {"gpusPerNode": 0},
            **spec,
        }
        value = {
            "identity": identity("FineTuneExperiment", attempt).model_dump(),
            "spec": document,
            "dataset": {
                "name": "faq",
                "uri": self.snapshot.uri,
                "digest": self.snapshot.digest,
                "location": RESULTS,
            },
            "location": RESULTS,
            "prefix": HOME,
            "seed": seed,
            "modelsAllowed": list(allowed),
        }
        return PreparationConfig.model_validate_json(json.dumps(value))

    def prepared(self, **options):
        """Run a preparation; return its summary and its reporter."""
        config = self.config(**options)
        report = reporter(config)
        return run(config, report), report

    def refused(self, error, **options):
        """Run a preparation that must fail and return its error."""
        with pytest.raises(error) as refused:
            self.prepared(**options)
        return refused.value
