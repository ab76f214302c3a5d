"""How a session is opened: one record in every report, so that results of different settings are distinguished."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    provider: ProviderName = "cpu"
    threads: int = 1
    optimization: Optimization = "all"
    tf32: bool = False
    cuda_graph: bool = False

    @property
    def described(self) -> str:
        """In one phrase: `cpu, 2 threads`, `cuda, 1 thread, TF32, CUDA graph`."""
        parts = [self.provider, f"{self.threads} thread{'s' if self.threads > 1 else ''}"]
        parts += [f"optimization {self.optimization}"] if self.optimization != "all" else []
        return ", ".join([*parts, *["TF32"] * self.tf32, *["CUDA graph"] * self.cuda_graph])


DEFAULT_SETTINGS = SessionSettings()
"""onnxruntime on one thread of the CPU."""
