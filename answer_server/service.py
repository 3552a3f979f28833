"""What stands behind the endpoints: the systems, a line in front of each, and one retriever for all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from answer_server.turns import LineFull, Place, Turns
from jointrag.asking import Part, System, ask
from jointrag.config import ServerConfig
from jointrag.recently_used import RecentlyUsed
from jointrag.retrieval import Retriever, RetrieverUnavailable
from jointrag.served import ServerUnavailable
from jointrag.types import Hit, Passage
from retrieval_server.bodies import Refused

_BUSY_S = 2  # when to ask again
_REMEMBERED = 10_000  # passages that citations lead to


@dataclass(frozen=True)
class Description:
    """What the page says about what it asks."""

    run: str
    examples: Sequence[str] = ()
    """Questions for those who do not know what to ask."""


class Service:
    """Safe for several threads. `config`: its limits of bodies and questions."""

    def __init__(
        self, systems: Sequence[System], config: ServerConfig, description: Description, max_waiting: int = 16
    ) -> None:
        retriever = _OneAtATime(systems[0].retriever)
        self.config = config
        self.description = description
        self.systems = {system.name: replace(system, retriever=retriever) for system in systems}
        self.passages = RecentlyUsed[str, Passage](_REMEMBERED)
        """Found lately, by id."""
        self._turns = {system.name: Turns(max_waiting) for system in systems}
        self._stopping = False

    @property
    def is_stopping(self) -> bool:
        return self._stopping

    def stop(self) -> None:
        """Refuse whatever comes from now on; what came before is finished."""
        self._stopping = True

    def system(self, name: str | None) -> System:
        """The system of that name, the first one by itself. Raises Refused with 404."""
        if name is None:
            return next(iter(self.systems.values()))
        if name not in self.systems:
            raise Refused(404, f"there is no checkpoint {name!r:.80}; there are {', '.join(self.systems)}")
        return self.systems[name]

    def queue(self, system: System) -> Place:
        """A place in the line of a system; to be left when the request is over. Raises Refused with 503."""
        if self._stopping:
            raise Refused(503, "the answer server is stopping", _BUSY_S)
        try:
            return self._turns[system.name].join()
        except LineFull as error:
            raise Refused(503, f"{system.name}: {error}", _BUSY_S) from None

    def answering(self, system: System, question: str, place: Place) -> Iterator[Part]:
        """The parts of the answer, once it is this request's turn; the place is left at the end, however it comes.
        Raises Refused for what cannot be answered."""
        with place, _refusals(system.name):
            for part in ask(system, question):
                if part.is_done:
                    self.passages.add({passage.id: passage for passage in part.episode.candidates})
                yield part


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    try:
        yield
    except (RetrieverUnavailable, ServerUnavailable) as error:
        raise Refused(502, f"{name}: {error}", _BUSY_S) from error
    except ValueError as error:  # more than the model can read
        raise Refused(422, f"{name}: {error}") from error


class _OneAtATime:
    """A retriever for the threads of several systems: an encoder is for one at a time."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        self._lock = threading.Lock()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        with self._lock:
            return self._retriever.search(queries, k)
