"""A real `transformers serve` process with a tiny random Llama: it answers what the same weights answer here."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import requests
import torch

from evaluation.answers import evaluate
from evaluation.scores import Scores
from jointrag.config import AgentsConfig, EvaluationConfig, PretrainedLM, ServedConfig, SynthesisConfig
from jointrag.datasets.synthesis import synthesise
from jointrag.generation import GREEDY, LocalLM, Sampling
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.served import ServedLM
from jointrag.types import Episode, Hit, Passage, Prompt, Question

LAUNCHER = Path(__file__).with_name("transformers_serve.py")
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}<assistant>"
QUESTIONS = [
    Question(f"q{i}", f"Where does {n} live?", ("Oslo",), "one-hop") for i, n in enumerate(("Ada", "Bo", "Cy"))
]
PASSAGES = [Passage("p0", "Ada", "Ada lives in Oslo."), Passage("p1", "Bo", "Bo lives in Turku.")]
PROMPTS = [Prompt("generator", "Give the shortest answer.", question.text) for question in QUESTIONS]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as training stages leave it, with model/ inside."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<pad>", "</s>", "<system>", "<user>", "<assistant>"]
    texts = [prompt.instructions + prompt.content for prompt in PROMPTS] + [p.contents for p in PASSAGES]
    texts.append("Document0,Document1\n")
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        initializer_range=0.4,  # far from uniform, so that answers differ from question to question
        eos_token_id=fast.get_vocab()["</s>"],
        pad_token_id=fast.get_vocab()["<pad>"],
        bos_token_id=None,
    )
    model = LlamaForCausalLM(shape)
    model.generation_config.do_sample = True  # what `transformers serve` goes by unless the temperature is 0
    out = tmp_path_factory.mktemp("system")
    model.save_pretrained(out / "model")
    fast.save_pretrained(out / "model")
    return out


@pytest.fixture(scope="module")
def server(system: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedConfig]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    model = str(system / "model")
    command = [sys.executable, str(LAUNCHER), model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 120
        while not _healthy(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        yield ServedConfig(base_url=f"http://127.0.0.1:{port}/v1", name=model, num_parallel=4)
    finally:
        process.terminate()
        process.wait(20)


def _healthy(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=1).ok
    except requests.ConnectionError:
        time.sleep(0.1)
        return False


@pytest.fixture(scope="module")
def here(system: Path) -> LocalLM:
    return LocalLM.load(system / "model", _section(system), "cpu")


def _section(system: Path) -> PretrainedLM:
    return PretrainedLM(name=str(system / "model"), dtype="float32", lora=None, max_length=512)


def test_greedy_answers_are_those_of_the_same_weights_here(server: ServedConfig, here: LocalLM) -> None:
    served = [completion.text for completion in ServedLM(server).generate(PROMPTS, 12, GREEDY)]
    assert served == [completion.text for completion in here.generate(PROMPTS, 12, GREEDY)]
    assert len(set(served)) == len(PROMPTS)
    shorter = [completion.text for completion in ServedLM(server).generate(PROMPTS, 3, GREEDY)]
    assert all(0 < len(few) < len(many) and many.startswith(few) for few, many in zip(shorter, served, strict=True))


def test_a_seed_repeats_a_sample(server: ServedConfig) -> None:
    lm = ServedLM(server.model_copy(update={"num_parallel": 1}))  # the server's random numbers are shared by requests

    def sampled(seed: int, top_p: float = 1.0) -> list[str]:
        sampling = Sampling(1.0, torch.Generator().manual_seed(seed), top_p=top_p)
        return [completion.text for completion in lm.generate(PROMPTS, 8, sampling)]

    assert sampled(1) == sampled(1) != sampled(2)
    greedy = [completion.text for completion in lm.generate(PROMPTS, 8, GREEDY)]
    assert sampled(1, top_p=1e-6) == greedy != sampled(1)


def test_a_model_the_server_does_not_have(server: ServedConfig) -> None:
    with pytest.raises(ValueError, match=r"refused a request for model 'another': 400: Server is pinned to"):
        ServedLM(server.model_copy(update={"name": "another"})).generate(PROMPTS, 4, GREEDY)


class Retriever:
    def __init__(self, url: str) -> None:
        pass

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(passage, 1.0) for passage in PASSAGES] for _ in queries]


def test_a_served_model_beside_a_checkpoint(
    server: ServedConfig, system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jointrag.retrieval.HttpRetriever", Retriever)
    write_jsonl(tmp_path / "questions" / "test.jsonl", QUESTIONS)
    metrics = evaluate(
        EvaluationConfig(num_bootstrap=100, served={"served": server}, baselines=()),
        AgentsConfig(num_candidates=2),
        _section(system),
        prepared=tmp_path,
        systems={"warm_start": system},
        retrieval_url="",
        seed=0,
        out=tmp_path,
    )
    assert metrics["eval/warm_start/penalised/selector"] == 0.0
    assert metrics["eval/served/penalised/selector"] == 1.0  # its tokens are not restricted, and it babbles
    scores = Scores.read(tmp_path / "scores.json")
    assert list(scores.systems) == ["warm_start", "served"]
    assert scores.comparison("served", "warm_start") is not None
    here, there = (list(read_jsonl(tmp_path / f"predictions/{name}.jsonl", Episode)) for name in scores.systems)
    assert [episode.turns[0] for episode in here] == [episode.turns[0] for episode in there]  # the rewriter's
    assert all(episode.selected == () for episode in there)

    with pytest.raises(ValueError, match=r"'served' names two systems"):
        evaluate(
            EvaluationConfig(served={"served": server}),
            AgentsConfig(),
            _section(system),
            prepared=tmp_path,
            systems={"served": system},
            retrieval_url="",
            seed=0,
            out=tmp_path,
        )


def test_it_writes_questions_as_the_same_weights_do_here(system: Path, server: ServedConfig, tmp_path: Path) -> None:
    """The protocol. Random weights write nothing of use: their words arrive, and none is kept."""
    write_jsonl(tmp_path / "corpus.jsonl", [*PASSAGES, Passage("p2", "", "Cy lives in Bergen.")])
    replies = {}
    here = {"local": _section(system).model_copy(update={"max_length": 2048})}
    for name, model in {"served": {"served": server}, "here": here}.items():
        counts = {"num_train_questions": 2, "num_dev_questions": 1, "num_test_questions": 1}
        config = SynthesisConfig.model_validate({**counts, **model, "two_hop_share": 0.5, "replies": tmp_path / name})
        with pytest.raises(ValueError, match=r"no \w+ question was kept: 0 of \d+ questions"):
            synthesise(config, tmp_path / "corpus.jsonl", seed=0, out=tmp_path / f"{name}-out")
        lines = (tmp_path / name / "replies.jsonl").read_text().splitlines()
        replies[name] = [json.loads(line)[1].strip() for line in lines]
    assert replies["served"] == replies["here"]
    assert any(replies["here"])
