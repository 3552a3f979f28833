"""The stages: what each is called with. Every function builds one as a tracked Prefect task."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from jointrag.artifacts import Artifact, outside, stage_key
from jointrag.config import (
    AgentsConfig,
    LateInteractionConfig,
    PretrainedEncoder,
    PretrainedLM,
    RerankerConfig,
    RetrieverConfig,
)
from jointrag.own_code import source_file
from tasks.run import Run, Stage
from tasks.serve import RetrievalServer

TRAINING = frozenset({"seed", "device", "tracker"})

PREPARE = Stage("prepare", "jointrag.datasets:prepare", takes=frozenset({"seed"}), own_process=False)
START_RETRIEVER = Stage("start_retriever", "trainers.embedding:train", takes=TRAINING)
PREFERENCES = Stage("preferences", "trainers.preferences:score", takes=TRAINING, resumable=True)
RETRIEVER = Stage("retriever", "trainers.embedding:train", takes=TRAINING, parallel=True, resumable=True)
INDEX = Stage("index", "jointrag.index:build", takes=frozenset({"device", "num_processes"}), resumable=True)
NEGATIVES = Stage("negatives", "trainers.negatives:mine_prepared", takes=TRAINING)
LATE_INTERACTION = Stage(
    "late_interaction", "trainers.late_interaction:train", takes=TRAINING, parallel=True, resumable=True
)
RERANKER = Stage("reranker", "trainers.reranker:train", takes=TRAINING, parallel=True, resumable=True)
AGENT_DATA = Stage(
    "agent_data",
    "trainers.agent_data:build",
    version=3,
    takes=frozenset({"seed", "tracker"}),
    own_process=False,
    resumable=True,
)
WARM_START = Stage("warm_start", "trainers.warm_start:train", takes=TRAINING, parallel=True)
MAPPO = Stage("mappo", "trainers.mappo:train", takes=TRAINING, parallel=True, sharded=True, resumable=True)
CONTROL = Stage("control", "trainers.warm_start:train_control", takes=TRAINING, parallel=True)
EVALUATE = Stage("evaluate", "evaluation.answers:evaluate", version=2, takes=TRAINING, resumable=True)
REPORT = Stage("report", "evaluation.report:write", own_process=False)


def prepare(run: Run) -> Artifact:
    """Stage 1: questions and corpus."""
    dataset = run.config.dataset
    named = {name: getattr(dataset, name, None) for name in ("path", "documents", "corpus")}
    sources = {name: outside(path, "files") for name, path in named.items() if isinstance(path, Path)}
    return run.build(PREPARE, {"config": dataset}, {}, sources=sources)


def retriever(run: Run, prepared: Artifact) -> Artifact:
    """Stage 2: the embedding model, taught by gold passages, by what helps its reader, or by a file of the user's."""
    config = run.config.retriever
    sources = _own_model(config.encoder.name) if isinstance(config.encoder, PretrainedEncoder) else {}
    inputs = {"prepared": prepared}
    if config.train and config.supervision == "preference":
        start = RetrieverConfig(
            encoder=config.encoder, train=False, attention=config.attention, trust_remote_code=config.trust_remote_code
        )
        inputs["retriever"] = run.build(START_RETRIEVER, {"config": start}, inputs, sources=sources)
        inputs = {"prepared": prepared, "preferences": _preferences(run, inputs)}
    files = {"data": config.data, "teacher": config.teacher and config.teacher.vectors} if config.train else {}
    sources |= {name: outside(file, name) for name, file in files.items() if file}
    return run.build(RETRIEVER, {"config": config}, inputs, sources=sources)


def _preferences(run: Run, inputs: dict[str, Artifact]) -> Artifact:
    """Before stage 2: what the language model makes of the passages that the untrained retriever finds."""
    model = run.config.language_model
    sections = {"config": run.config.preferences, "agents": run.config.agents, "model": model}
    sources = _own_model(model.name) if isinstance(model, PretrainedLM) else {}
    return run.build(PREFERENCES, sections, inputs, sources=sources)


def index(run: Run, prepared: Artifact, retriever: Artifact) -> Artifact:
    """Stage 3: the embedded corpus; without vectors it does not depend on the retriever."""
    config = run.config.index
    inputs = {"prepared": prepared}
    if config.type != "bm25":
        inputs["retriever"] = retriever
    vectors: AbstractContextManager[None] = nullcontext()
    if (
        run.config.runtime.dask_scheduler
        and config.type != "bm25"
        and run.has_to_build(INDEX, {"config": config}, inputs)
    ):
        from tasks import on_dask  # which few runs need

        vectors = on_dask.embedded(run, prepared, retriever)
    with vectors:
        return run.build(INDEX, {"config": config}, inputs)


def negatives(run: Run, prepared: Artifact, retriever: Artifact) -> Artifact:
    """Hard negatives: what the retriever finds for the prepared questions besides their gold passages."""
    return run.build(NEGATIVES, {"config": run.config.negatives}, {"prepared": prepared, "retriever": retriever})


def late_interaction(run: Run, negatives: Artifact | None) -> Artifact:
    """A late-interaction model, from a file of the user's or the mined negatives."""
    assert run.config.late_interaction is not None
    return _pair_model(run, LATE_INTERACTION, run.config.late_interaction, negatives)


def reranker(run: Run, negatives: Artifact | None) -> Artifact:
    """A reranker, in the same way."""
    assert run.config.reranker is not None
    return _pair_model(run, RERANKER, run.config.reranker, negatives)


def chain_reranker(run: Run, prepared: Artifact, retriever: Artifact) -> Artifact | None:
    """What stands between retriever and agents, where anything does: a reranker that is trained, or taken as it is."""
    config = run.config.reranker
    if config is None:
        return None
    if config.train:
        model = reranker(run, negatives(run, prepared, retriever) if config.data is None else None)
    else:
        model = _own_model(config.model).get("pretrained") or Artifact("reranker", Path(config.model), config.model)
    key = stage_key("reranking", 1, {"config": run.config.reranking}, {"model": model.fingerprint})
    return replace(model, fingerprint=key)


def _pair_model(
    run: Run, stage: Stage, config: LateInteractionConfig | RerankerConfig, negatives: Artifact | None
) -> Artifact:
    files = {name: outside(file, name) for name, file in (("data", config.data), ("dev", config.dev)) if file}
    if config.data is None:  # a question of which fewer were mined than asked is no mistake of the user's
        config = config.model_copy(update={"repeat_negatives": True})
    mined = {"negatives": negatives} if negatives else {}
    return run.build(stage, {"config": config}, mined, sources=files | _own_model(config.model))


def agent_data(run: Run, prepared: Artifact, server: RetrievalServer) -> Artifact:
    """Stage 5: warm-start examples and MAPPO's questions."""
    sections = {"config": run.config.agent_data, "agents": run.config.agents}
    return run.build(AGENT_DATA, sections, {"prepared": prepared}, server=server)


def warm_start(run: Run, agent_data: Artifact) -> Artifact:
    """Stage 6: all agents, supervised."""
    model = run.config.language_model
    sections = {"config": run.config.warm_start, "model": model, "agents": _response_lengths(run.config.agents)}
    sources = _own_model(model.name) if isinstance(model, PretrainedLM) else {}
    return run.build(WARM_START, sections, {"agent_data": agent_data}, sources=sources)


def _response_lengths(agents: AgentsConfig) -> AgentsConfig:
    """All that supervised training has to know of the agents: other settings, as penalties, do not train it again."""
    settings = {name: agents.of(name).model_dump() for name in agents.chain}
    needed = {name: {k: v for k, v in given.items() if k == "max_new_tokens"} for name, given in settings.items()}
    return AgentsConfig.model_validate({"chain": agents.chain, **needed})


def mappo(run: Run, agent_data: Artifact, warm_start: Artifact, server: RetrievalServer) -> Artifact:
    """Stage 7: all agents, jointly by PPO."""
    sections = {"config": run.config.mappo, "agents": run.config.agents, "model": run.config.language_model}
    inputs = {"agent_data": agent_data, "warm_start": warm_start}
    return run.build(MAPPO, sections, inputs, server=server, sources=_own_rewards(run.config.mappo.reward))


def control(run: Run, agent_data: Artifact, warm_start: Artifact, mappo: Artifact) -> Artifact:
    """Beside stage 7: further supervised training for as long as MAPPO took."""
    sections = {
        "config": run.config.control,
        "model": run.config.language_model,
        "agents": _response_lengths(run.config.agents),
    }
    return run.build(CONTROL, sections, {"agent_data": agent_data, "warm_start": warm_start, "mappo": mappo})


def evaluate(run: Run, prepared: Artifact, systems: dict[str, Artifact], server: RetrievalServer) -> Artifact:
    """Stage 8: every system on the same held-out questions."""
    sections = {
        "config": run.config.evaluation,
        "agents": run.config.agents,
        "model": run.config.language_model,
    }
    replies = run.config.workspace.resolve() / "runs" / "judge"  # kept between evaluations: a judge is paid for
    values = {"judge_replies": str(replies)} if run.config.evaluation.judge else {}
    return run.build(EVALUATE, sections, {"prepared": prepared, "systems": systems}, server=server, values=values)


def report(run: Run, evaluation: Artifact, mappo: Artifact | None) -> Artifact:
    """Stage 9: tables and, of a joint training, curves."""
    values = {"settings": run.config.model_dump(mode="json"), "stages": run.records}
    inputs = {"evaluation": evaluation} | ({"mappo": mappo} if mappo else {})
    return run.build(REPORT, {"config": run.config.report}, inputs, values=values)


def _own_model(name: str) -> dict[str, Artifact]:
    """A model folder of the user's counts by its content, not by its path alone."""
    return {"pretrained": outside(Path(name), "model")} if Path(name).is_dir() else {}


def _own_rewards(reward: str | dict[str, float]) -> dict[str, Artifact]:
    """A reward function of the user's counts by the content of its file: changed code is another training."""
    names = [reward] if isinstance(reward, str) else reward
    files = {name: source_file(name) for name in names if ":" in name}
    return {f"reward {name}": outside(file, "reward") for name, file in files.items() if file}
