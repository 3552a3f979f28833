"""An index over a corpus, for an encoder as it is or trained before.

python -m flows.build_index --preset index --set dataset.path=psgs_w100.tsv --set index.factory=IVF65536,PQ64
python -m flows.build_index --preset index --set retriever.encoder.name=models/mine --set index.type=torch
python -m retrieval_server --index data/index/KEY
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, so that --help does not wait for them
    from flows.command_line import main

    raise SystemExit(main("flows.build_index:build_index", __doc__))

from typing import Any

from prefect import flow

from flows.opening import Preset, StageName, opened
from tasks import stages

CHAIN = ("prepare", "start_retriever", "preferences", "retriever", "index")


@flow(name="build-index")
def build_index(
    preset: Preset = "index", overrides: dict[str, Any] | None = None, force: list[StageName] | None = None
) -> str:
    """Embed the corpus and build the index. Returns its path."""
    with opened(preset, overrides, force, CHAIN) as run:
        prepared = stages.prepare(run)
        retriever = stages.retriever(run, prepared)
        return str(stages.index(run, prepared, retriever).path)
