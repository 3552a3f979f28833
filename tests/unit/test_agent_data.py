"""Labelling: the chain with the agents' own labels, and the examples it leaves. The labels: test_agents.py."""

import json
from dataclasses import replace

import numpy as np
import pytest

from jointrag.agents import build_chain
from jointrag.config import AgentDataConfig, AgentsConfig, AnswerContexts
from jointrag.generation import GREEDY, Completion
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.pipeline import answer
from jointrag.presets import ConfigError, resolve
from jointrag.types import Episode, Example, Hit, Passage, Question
from tests.answering import Said, answering
from trainers.agent_data import build_with, reading_examples
from trainers.data_card import DataCard
from trainers.exports import Exports
from trainers.labelling import Labels, label
from trainers.scratch import word_level_tokenizer

PASSAGES = {
    "d": Passage("d", "", "Silent Harbor was directed by Anna Berg."),
    "b": Passage("b", "", "Anna Berg was born in Port Hale."),
    "x": Passage("x", "", "Olga Holm was born in New Rusk."),
    "y": Passage("y", "", "Porthale is a port."),
}
BRIDGE = Question(
    "q1", "Where was the director of Silent Harbor born?", ("Port Hale", "Hale"), "bridge", ("d", "b"),
    ("Who directed Silent Harbor?", "Where was Anna Berg born?"),
)  # fmt: skip
CHAIN = build_chain(AgentsConfig(num_candidates=4))


class EverythingRetriever:
    """Finds the same passages for every query, in order."""

    def search(self, queries, k):
        return [[Hit(passage, 1.0) for passage in list(PASSAGES.values())[:k]] for _ in queries]


def test_examples_are_what_the_agents_would_be_asked():
    (labelled,) = label([BRIDGE], CHAIN, EverythingRetriever())
    rewriter, selector, generator = labelled.examples
    assert [e.id for e in labelled.examples] == ["q1/rewriter", "q1/selector", "q1/generator"]
    assert rewriter.prompt == CHAIN.agents[0].prompt(Episode(BRIDGE, sub_questions=(BRIDGE.text,)))
    assert rewriter.response == "Who directed Silent Harbor?\nWhere was Anna Berg born?"
    assert selector.response == "Document0,Document1"
    assert "Olga" in selector.prompt.content
    assert "Olga" not in generator.prompt.content
    assert generator.response == "Port Hale"


def test_a_labelled_episode_went_through_the_chain():
    (labelled,) = label([BRIDGE], CHAIN, EverythingRetriever())
    episode = labelled.episode
    assert episode.sub_questions == BRIDGE.sub_questions
    assert [p.id for p in episode.passages] == ["d", "b"]
    assert episode.answer == "Port Hale"


def test_labelling_is_the_chain_with_labels_for_words():
    """A model that says the labels makes the same episodes; its turns aside."""

    class Says:
        def generate(self, prompts, max_new_tokens, sampling):
            return [Completion(labels[prompt.agent, prompt.content]) for prompt in prompts]

    (labelled,) = label([BRIDGE], CHAIN, EverythingRetriever())
    labels = {(e.prompt.agent, e.prompt.content): e.response for e in labelled.examples}
    (answered,) = answer([BRIDGE], CHAIN, EverythingRetriever(), Says(), GREEDY)
    assert replace(answered, turns=()) == labelled.episode


@pytest.mark.parametrize("chain", [("generator",), ("rewriter", "generator"), ("selector", "generator")])
def test_every_agent_of_a_shorter_chain_learns(chain):
    (labelled,) = label([BRIDGE], build_chain(AgentsConfig(chain=chain)), EverythingRetriever())
    assert tuple(example.prompt.agent for example in labelled.examples) == chain


def test_the_generator_does_not_learn_to_invent():
    unknown = Question("q3", "Who founded Rome?", ("Romulus",))
    (labelled,) = label([unknown], CHAIN, EverythingRetriever())
    assert [example.prompt.agent for example in labelled.examples] == ["rewriter", "selector"]
    assert labelled.episode.answer == ""


def test_reading_examples_always_show_the_gold_passages():
    (labelled,) = label([BRIDGE], CHAIN, EverythingRetriever())
    found = list(reading_examples([labelled.episode], PASSAGES, CHAIN, 20, np.random.default_rng(0)))
    assert len(found) == 20
    for example in found:
        assert "Silent Harbor was directed by" in example.prompt.content
        assert "born in Port Hale" in example.prompt.content
    assert {example.prompt.agent for example in found} == {"selector", "generator"}


def test_reading_examples_need_gold_passages():
    with pytest.raises(ValueError, match="num_reading_examples"):
        list(reading_examples([], PASSAGES, CHAIN, 1, np.random.default_rng(0)))


def test_the_data_card_says_what_there_is_and_how_good_the_labels_are():
    plain = Question("q9", "Who is Olga Holm?", ("a person",), "", ("x",))
    labelled = list(label([BRIDGE, plain], CHAIN, EverythingRetriever()))
    found_by_question = ["b", "x", "y", "z", "d"]
    card = DataCard(seed=0)
    for one in labelled:
        card.add(one, found_by_question)
    text = card.text({"warm_start": 5, "questions": 2})
    assert "| warm_start | 5 |" in text
    assert "| rewriter | 2 | 100% | decomposition 50%, identity 50% |" in text
    assert "| selector | 2 | 100% | gold 100% |" in text
    assert "| generator | 1 | 50% | answer 100% |" in text
    assert "| the question itself | 75.0 | 100.0 |" in text  # at 2 and 5; 10 were not asked for
    assert "| its sub-questions | 50.0 | – |" in text
    assert "| bridge | 1 | 1 | 2.00 | 100% | 100% | 100% | 100% |" in text
    assert "- 0 (chosen, gold): Silent Harbor was directed by Anna Berg." in text
    assert "learns to answer: (nothing: no passage holds the answer)" in text
    found = card.metrics()
    assert found["agent_data/gold_found"] == 1.0
    assert found["agent_data/label_recall"] == 1.0
    assert found["agent_data/recall_at_2"] == 0.75
    assert DataCard(seed=0).metrics() == {}


# ---- where labels come from ----


class Teacher:
    """Says one thing to each agent, and counts what it was asked."""

    def __init__(self, **replies):
        self.replies = replies
        self.num_asked = 0

    def generate(self, prompts, max_new_tokens, sampling):
        assert sampling.temperature == 0
        self.num_asked += len(prompts)
        return [Completion(self.replies[prompt.agent]) for prompt in prompts]


PLAIN = replace(BRIDGE, id="q2", sub_questions=(), gold_passages=())


def test_a_label_comes_from_the_most_trusted_source_that_has_one():
    teacher = Teacher(rewriter="Who made it?\nWhere were they born?")
    order = {"rewriter": ("decomposition", "teacher", "identity")}
    known, taught = label([BRIDGE, PLAIN], CHAIN, EverythingRetriever(), Labels(order, teacher))
    assert (known.sources[0], known.examples[0].response) == ("decomposition", "\n".join(BRIDGE.sub_questions))
    assert (taught.sources[0], taught.examples[0].response) == ("teacher", "Who made it?\nWhere were they born?")
    assert taught.episode.sub_questions == ("Who made it?", "Where were they born?")
    assert teacher.num_asked == 1
    assert (known.sources[1], taught.sources[1]) == ("gold", "lexical")


@pytest.mark.parametrize("reply", ["", "\n".join("abcdefg"), "x" * 301])
def test_what_the_agent_would_be_charged_for_is_no_label(reply):
    order = {"rewriter": ("teacher", "identity")}
    (labelled,) = label([BRIDGE], CHAIN, EverythingRetriever(), Labels(order, Teacher(rewriter=reply)))
    assert (labelled.sources[0], labelled.examples[0].response) == ("identity", BRIDGE.text)


def test_gold_labels_are_the_gold_passages_and_nothing_else():
    answer_elsewhere = replace(BRIDGE, gold_passages=("x",))
    (labelled,) = label([answer_elsewhere], CHAIN, EverythingRetriever())
    assert labelled.examples[1].response == "Document2"
    (weak,) = label([answer_elsewhere], CHAIN, EverythingRetriever(), Labels({"selector": ("lexical",)}))
    assert weak.examples[1].response == "Document0,Document1"


def test_candidates_in_random_order_are_the_same_ones_and_the_same_again():
    many = [replace(BRIDGE, id=f"q{i}") for i in range(40)]
    first, again = (list(label(many, CHAIN, EverythingRetriever(), Labels(shuffle=True, seed=3))) for _ in range(2))
    assert first == again
    assert {len(set(one.episode.candidates)) for one in first} == {4}
    assert len({one.examples[1].response for one in first}) > 5  # gold ones stand everywhere
    assert {one.found for one in first} == {("d", "b", "x", "y")}
    for one in first:
        assert {passage.id for passage in one.episode.passages} == {"d", "b"}


def test_answers_are_learned_from_what_was_configured():
    many = [replace(BRIDGE, id=f"q{i}") for i in range(600)]
    contexts = AnswerContexts(selected=3, gold=2, nothing=1)

    class Far(EverythingRetriever):
        def search(self, queries, k):
            return super().search(queries, 1)  # never the second gold passage

    labelled = list(label(many, CHAIN, Far(), Labels(contexts=contexts, corpus=PASSAGES)))
    by_source = {}
    for one in labelled:
        for source, example in zip(one.sources, one.examples, strict=True):
            if example.prompt.agent == "generator":
                by_source.setdefault(source, []).append(example)
    # what was selected does not hold the answer, so it teaches nothing
    assert {source: pytest.approx(len(found), abs=45) for source, found in by_source.items()} == {
        "gold passages": 200,
        "without passages": 100,
    }
    assert {example.response for found in by_source.values() for example in found} == {"Port Hale"}
    assert all(
        set(e.prompt.passages) == {f"Passage: {PASSAGES[i].text}" for i in "db"} for e in by_source["gold passages"]
    )
    assert all(e.prompt.passages == () for e in by_source["without passages"])


def test_pairs_set_the_gold_selection_against_a_worse_one():
    # the weak label finds both gold passages too, so one of them is taken for another
    (same,) = label([BRIDGE], CHAIN, EverythingRetriever())
    assert same.pair is not None
    assert same.pair.example.response == "Document0,Document1"
    assert len(set(same.pair.rejected.split(",")) & {"Document0", "Document1"}) == 1
    (other,) = label([replace(BRIDGE, gold_passages=("x",))], CHAIN, EverythingRetriever())
    assert other.pair is not None
    assert (other.pair.example.response, other.pair.rejected) == ("Document2", "Document0,Document1")
    (unknown,) = label([PLAIN], CHAIN, EverythingRetriever())
    assert unknown.pair is None


# ---- for other trainers ----


@pytest.fixture
def exported(tmp_path):
    with Exports(tmp_path, ("trl", "alpaca")) as exports:
        for one in label([BRIDGE, PLAIN], CHAIN, EverythingRetriever()):
            exports.add(one)
    assert exports.num_pairs == 1
    return tmp_path


def test_datasets_and_trl_read_the_exports(exported):
    from datasets import load_dataset
    from trl.data_utils import is_conversational

    for name, columns in (("rewriter", ["prompt", "completion"]), ("selector_pairs", ["prompt", "chosen", "rejected"])):
        rows = load_dataset(
            "json", data_files=str(exported / "trl" / f"{name}.jsonl"), cache_dir=str(exported / "cache")
        )
        assert rows["train"].column_names == columns
        assert is_conversational(rows["train"][0])
    first = json.loads((exported / "trl/rewriter.jsonl").read_text().splitlines()[0])
    assert [message["role"] for message in first["prompt"] + first["completion"]] == ["system", "user", "assistant"]
    assert first["prompt"][1]["content"] == BRIDGE.text
    assert first["completion"][0]["content"] == "\n".join(BRIDGE.sub_questions)


def test_llama_factory_finds_the_files_and_their_columns(exported):
    info = json.loads((exported / "alpaca/dataset_info.json").read_text())
    assert set(info) == {f"jointrag_{name}" for name in ("rewriter", "selector", "generator", "selector_pairs")}
    for entry in info.values():
        rows = [json.loads(line) for line in (exported / "alpaca" / entry["file_name"]).read_text().splitlines()]
        assert rows
        assert all(set(entry["columns"].values()) == set(row) for row in rows)
    assert info["jointrag_selector_pairs"]["ranking"]


def test_an_interruption_leaves_no_half_written_export(tmp_path):
    (labelled,) = label([BRIDGE], CHAIN, EverythingRetriever())

    def write():
        with Exports(tmp_path, ("trl", "alpaca")) as exports:
            exports.add(labelled)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# ---- the stage ----


@pytest.fixture
def prepared(tmp_path):
    write_jsonl(tmp_path / "prepared/corpus.jsonl", PASSAGES.values())
    for split, questions in {"source": [BRIDGE, PLAIN], "train": [BRIDGE], "dev": [PLAIN]}.items():
        write_jsonl(tmp_path / "prepared/questions" / f"{split}.jsonl", questions)
    return tmp_path / "prepared"


def build_it(prepared, out, **settings):
    config = AgentDataConfig.model_validate(settings)
    agents = AgentsConfig(num_candidates=4)
    return build_with(EverythingRetriever(), config, agents, prepared=prepared, seed=0, out=out)


def test_a_teacher_behind_a_server_is_asked_once(prepared, tmp_path):
    asked = []

    def answer_it(request):
        asked.append(request.body)
        return Said({"choices": [{"message": {"content": "Who made Silent Harbor?"}}]})

    with answering(answer_it) as url:
        settings = {
            "teacher": {"base_url": f"{url}/v1", "name": "large"},
            "label_sources": {"rewriter": ["decomposition", "teacher"]},
        }
        metrics = build_it(prepared, tmp_path / "out", **settings)
        again = build_it(prepared, tmp_path / "out", **settings)  # as after an interruption
    assert metrics == again
    assert [body["messages"][1]["content"] for body in asked] == [PLAIN.text]
    rewriter = [e for e in read_jsonl(tmp_path / "out/warm_start.jsonl", Example) if e.prompt.agent == "rewriter"]
    assert sorted(e.response for e in rewriter) == sorted(["\n".join(BRIDGE.sub_questions), "Who made Silent Harbor?"])
    assert "decomposition 50%, teacher 50%" in (tmp_path / "out/data_card.md").read_text()


def test_mappo_gets_questions_and_answers_and_the_card_counts_tokens(prepared, tmp_path):
    tokenizer = word_level_tokenizer([BRIDGE.text], ["<pad>", "<unk>", "<eos>"], lowercase=False)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    metrics = build_it(prepared, tmp_path / "out", tokenizer=str(tmp_path / "tokenizer"), exports=[])
    (question,) = read_jsonl(tmp_path / "out/questions.jsonl", Question)
    assert question == replace(BRIDGE, gold_passages=(), sub_questions=())
    assert metrics["agent_data/questions"] == metrics["agent_data/dev"] == 1
    assert f"Prompts in tokens of {tmp_path / 'tokenizer'}" in (tmp_path / "out/data_card.md").read_text()
    assert not (tmp_path / "out/trl").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("agent_data.label_sources={rewriter: [teacher]}", "label_sources.rewriter names the teacher; set teacher"),
        ("agent_data.label_sources={rewriter: [gold]}", "rewriter names 'gold'; choose from decomposition, identity"),
        ("agent_data.label_sources={judge: [gold]}", "names the agent 'judge'; there are rewriter, selector"),
        ("agent_data.answer_contexts={selected: 0, gold: 0, nothing: 0}", "answer_contexts are all 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        resolve("smoke", [override])
