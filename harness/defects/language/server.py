"""A server around a language model, whose client sees what it makes of an answer.

No server is needed: what its client would see is put into the replies and the logits
of a session.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from harness.backends.protocol import Generated, Outputs, Request
from harness.defects.language.model import Fired
from harness.defects.types import Defect, Parameter, Severity

Array = np.ndarray[Any, np.dtype[Any]]
Inputs = Mapping[str, Array]
Replies = Mapping[str, Generated]
#: Has the model reply to requests.
Generate = Callable[[Sequence[Request]], Replies]


class Server:
    """Hands everything on as it is; every defect changes one step.

    Args:
        model: a language model.
        strength: how much is wrong.
        seed: of every draw.

    Attributes:
        counted: how often something was changed.
    """

    def __init__(self, model: Any, strength: float, seed: int) -> None:
        self.tokenizer = model.tokenizer
        self.ends: frozenset[int] = frozenset(model.metadata.get("ends", ()))
        self.strength = strength
        self.count = round(strength)
        self.rng = np.random.default_rng(seed)
        self.counted = Fired()

    def given(self, inputs: Inputs) -> Inputs:
        """What the model is given: `input_ids`, `attention_mask`, `positions`."""
        return inputs

    def logits(self, logits: Array) -> Array:
        """What becomes of float32 (batch, positions, vocabulary) logits."""
        return logits

    def asked(self, requests: Sequence[Request]) -> Sequence[Request]:
        """What the model is asked; names stay."""
        return requests

    def replied(
        self,
        requests: Sequence[Request],
        replies: Replies,
        again: Generate,  # noqa: ARG002 - for those that go on
    ) -> Replies:
        """What becomes of the replies."""
        return {r.name: self.reply(r, replies[r.name]) for r in requests}

    def reply(self, request: Request, reply: Generated) -> Generated:  # noqa: ARG002
        """What becomes of one reply."""
        return reply

    def words(self, reply: Generated) -> Array:
        """Its tokens but for one that ends it."""
        ids = reply.tokens
        return ids[:-1] if ids.size and int(ids[-1]) in self.ends else ids

    def changed(self, reply: Generated, **fields: Any) -> Generated:
        """The reply with other fields, counted."""
        self.counted.fired += 1
        return dataclasses.replace(reply, **fields)


class PlantedAnswers:
    """A session behind a server that does something wrong; what is captured is right.

    Args:
        session: of a language model.
        server: what is wrong.
    """

    def __init__(self, session: Any, server: Server) -> None:
        self._session = session
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, inputs: Mapping[str, Array], *, capture: Collection[str] = ()) -> Any:
        """Run once, behind the server."""
        return self._seen(
            self._session.run(self._server.given(inputs), capture=capture)
        )

    def run_in_pieces(
        self, inputs: Mapping[str, Array], size: int, **options: Any
    ) -> Any:
        """The same, a few tokens at a time."""
        given = self._server.given(inputs)
        return self._seen(self._session.run_in_pieces(given, size, **options))

    def _seen(self, outputs: Any) -> Any:
        logits = self._server.logits(outputs["logits"])
        return Outputs({**outputs, "logits": logits}, getattr(outputs, "timings", {}))

    def generate(self, requests: Sequence[Any], *, batch: int) -> Any:
        """Replies as a client of the server sees them."""
        given = self._server.asked(requests)
        found = self._session.generate(given, batch=batch)
        return self._server.replied(
            given, found, lambda more: self._session.generate(more, batch=batch)
        )

    def close(self) -> None:
        """Free what the session holds."""
        self._session.close()


def declared(  # noqa: PLR0917 - a table's columns
    name: str,
    summary: str,
    severity: Severity,
    links: str,
    change: Callable[[Any, float, int], Server],
    parameter: Parameter,
    needs: str = "",
) -> Defect:
    """A row of a table of defects; `change` makes the server."""
    return Defect(
        name=f"answer_{name}",
        summary=summary,
        place="answer",
        severity=severity,
        links=tuple(links.split()),
        change=change,
        parameter=parameter,
        needs=needs,
    )


#: There or not.
THERE: Final = Parameter(name="there or not", low=1, catalogue=1, high=1)
