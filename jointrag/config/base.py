"""What all sections share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jointrag.section import Section

__all__ = ["AgentName", "Section", "Share", "check_heads"]

Share = Annotated[float, Field(ge=0, le=1)]
AgentName = str  # a name registered in jointrag.agents


def check_heads(hidden_size: int, num_heads: int) -> None:
    if hidden_size % (2 * num_heads):  # rotary embeddings need heads of even width
        raise ValueError(f"hidden_size={hidden_size} has to be a multiple of 2 x num_heads={num_heads}")
