"""The retrieval server of MMOA-RAG in shape: a Flask handler that encodes its request's questions and searches them.

    python -m benchmarks.serve_plain INDEX --threads 32 --torch-threads 2

Model, index, passages and WSGI server are those of ours, the encoding is sentence-transformers'. What it lacks is
batching and caching. With --one-at-a-time a lock lets one request at the model: threads that all compute get in each
other's way on few cores.
"""

from __future__ import annotations

import argparse
import threading
from contextlib import nullcontext
from pathlib import Path

import faiss
import numpy as np
import torch
from flask import Flask, Response, jsonify, request
from sentence_transformers import SentenceTransformer
from waitress.server import create_server

from jointrag.retrieval import InProcessRetriever


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--torch-threads", type=int, default=2)
    parser.add_argument("--one-at-a-time", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.torch_threads)
    faiss.omp_set_num_threads(given.torch_threads)
    index = InProcessRetriever.open(given.index, "cpu").index
    model = SentenceTransformer(str(index.encoder_path), device="cpu")
    turn = threading.Lock() if given.one_at_a_time else nullcontext()
    app = Flask("plain")

    @app.post("/search")
    def search() -> Response:
        body = request.get_json()
        with turn:
            vectors = model.encode(body["questions"], normalize_embeddings=True, show_progress_bar=False)
            found = index.search(np.asarray(vectors), body["N"])
        return jsonify(
            [
                {"question": question, "top_k_docs": [f"{hit.passage.title}\n{hit.passage.text}" for hit in hits]}
                for question, hits in zip(body["questions"], found, strict=True)
            ]
        )

    index.search(np.asarray(model.encode(["warm up"])), 1)
    server = create_server(app, host="127.0.0.1", port=0, threads=given.threads, connection_limit=1000)
    print(f"http://127.0.0.1:{server.effective_port}", flush=True)  # type: ignore[attr-defined]
    server.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
