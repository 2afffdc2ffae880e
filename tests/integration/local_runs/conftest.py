"""The inputs of local runs, and a work directory for each test."""

from __future__ import annotations

import pytest
from tiny_model import write

from local_story import LocalStory


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Write the tiny model and 400 records once."""
    folder = tmp_path_factory.mktemp("inputs")
    write(folder)
    return folder


@pytest.fixture
def story(tmp_path, inputs):
    """Return an empty work directory that knows the inputs as claim `inputs`."""
    told = LocalStory(tmp_path, inputs)
    yield told
    (tmp_path / "transcript.txt").write_text(told.log())
