"""How a session is opened: one record in every report, so that results of different settings are distinguished."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnist_edge.contract import Optimization, ProviderName


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """Provider and options of one onnxruntime session.

    Attributes:
        provider: the only execution provider; not one node runs on another.
        threads: size of the intra-op pool, at least 1.
        optimization: how far onnxruntime may rewrite the graph.
        tf32: on CUDA, let fp32 products round their factors to 10 bits (onnxruntime's own default on Ampere and
            newer); off, fp32 means IEEE binary32.
        cuda_graph: capture the first run as a CUDA graph; inputs and outputs must then stay bound.
        spinning: let idle threads of the pool wait in a busy loop: faster, but it takes CPU time from other programs.
            Without effect on one thread.
        prepacking: rearrange constant weights when the session is created, for faster products; takes time and memory.
        io_binding: let a timed run read the images from, and write the outputs to, buffers that stay bound. The session
            and its outputs are the same; `verify` and `eval` run without. On CUDA, timed runs are always bound.
    """

    provider: ProviderName = "cpu"
    threads: int = 1
    optimization: Optimization = "all"
    tf32: bool = False
    cuda_graph: bool = False
    spinning: bool = True
    prepacking: bool = True
    io_binding: bool = False

    @property
    def described(self) -> str:
        """In one phrase: `cpu, 2 threads, no spinning`, `cuda, 1 thread, TF32, CUDA graph`."""
        return ", ".join([self.provider, f"{self.threads} thread{'s' if self.threads > 1 else ''}", *self.extras])

    def with_named(self, named: Mapping[str, Any]) -> SessionSettings:
        """Return these settings, as they were recorded, with those that a user names.

        Args:
            named: values by field. Where the provider is another one, nothing recorded applies.
        """
        same = named.get("provider", self.provider) == self.provider
        return dataclasses.replace(self if same else SessionSettings(), **named)

    @property
    def extras(self) -> tuple[str, ...]:
        """Every setting but provider and threads that is not the default, a phrase each."""
        parts = [f"optimization {self.optimization}"] if self.optimization != "all" else []
        parts += ["TF32"] * self.tf32 + ["CUDA graph"] * self.cuda_graph + ["no spinning"] * (not self.spinning)
        return (*parts, *["no prepacking"] * (not self.prepacking), *["IO binding"] * self.io_binding)


DEFAULT_SETTINGS = SessionSettings()
"""onnxruntime on one thread of the CPU."""
