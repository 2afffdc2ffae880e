"""The page a person reads about a Dataset."""

import json

from data_ground import dataset_config, dataset_spec, from_claim, jsonl, questions, reporter
from finetune_trainer.dataset_job import run


def report_folder(ground, rows, **spec):
    """Run the job on rows; return the folder of its report."""
    ground.put("faq.jsonl", jsonl(rows))
    config = dataset_config(dataset_spec(from_claim("faq.jsonl"), **spec))
    run(config, reporter(config))
    return ground.claims / "results/datasets/default/faq-1/report-1"


def test_the_report_escapes_what_the_data_says_and_loads_nothing(ground):
    evil = "<script>alert(1)</script>{{ 7 * 7 }}<img src=http://example.org/x>"
    rows = [*questions(20), {"prompt": evil, "answer": evil}, {"prompt": evil}]
    page = (report_folder(ground, rows, checks={"policy": "Drop"}) / "report.html").read_text()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}" in page
    assert "src=" not in page.replace("src=http://example.org/x&gt;", "")


def test_the_report_shows_counts_findings_histograms_and_rejected_rows(ground):
    rows = [*questions(30), {"prompt": "the bad one", "answer": ""}]
    folder = report_folder(ground, rows, checks={"policy": "Drop"})
    page = (folder / "report.html").read_text()
    figures = json.loads((folder / "report.json").read_text())
    assert "the bad one" in page
    assert page.count("<svg") == 4
    assert "answer 3" in page
    assert figures["records"]["total"] == 30
    assert figures["rejected"] == {"EmptyAnswer": 1}
    assert sum(figures["histograms"][0]["counts"]) == 30


def test_sample_rows_bound_the_records_of_the_report(ground):
    folder = report_folder(ground, questions(90), statistics={"sampleRows": 7})
    assert (folder / "report.html").read_text().count("<article") == 7


def test_the_longest_records_are_among_the_samples(ground):
    rows = [*questions(60), {"prompt": "q", "answer": "a very long answer " * 40}]
    page = (report_folder(ground, rows, statistics={"sampleRows": 8}) / "report.html").read_text()
    assert "row 61 · longest" in page
