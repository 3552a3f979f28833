"""`transformers serve`, also where the openai package is not installed.

    python tests/integration/transformers_serve.py MODEL --port 8000 …

The server takes its request and response types from that package, and nothing else. What stands in for them here takes
any field in a response, and the fields of the public API in a request.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

REQUEST = (
    *(
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "stream",
        "n",
    ),
    *("logprobs", "top_logprobs", "frequency_penalty", "presence_penalty", "logit_bias", "tools", "tool_choice"),
    *("response_format", "user"),
)


class Types(ModuleType):
    """Whatever name is asked for, it is a type: of a request, or of a part of a response."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        from pydantic import ConfigDict, create_model
        from typing_extensions import TypedDict

        if "Params" in name:
            made: Any = TypedDict(name, dict.fromkeys(REQUEST, Any), total=False)  # type: ignore[misc]
        else:
            made = create_model(name, __config__=ConfigDict(extra="allow"))
        setattr(self, name, made)
        return made


class StandIn(MetaPathFinder, Loader):
    """Finds `openai` and everything in it."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] == "openai" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Types(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


if __name__ == "__main__":
    if find_spec("openai") is None:
        sys.meta_path.append(StandIn())
    from transformers.cli.transformers import main

    sys.argv = ["transformers", "serve", *sys.argv[1:]]
    main()
