"""What is known of the devices (``conf/plan.yaml``), and what is assumed of their use."""

from __future__ import annotations

from dataclasses import dataclass, field

GIB = 2**30


@dataclass
class Gpu:
    """One device and its links.

    Attributes:
        memory_gib: memory that programs can have, GiB.
        peak_tflops: dense peak by precision (``32``, ``16``, ``bf16``); a precision that is not
            there cannot be had.
        memory_gb_s: memory bandwidth, 10^9 bytes/s.
        intra_gb_s: to a device of the same node, each way, 10^9 bytes/s.
        inter_gb_s: to a device of another node, each way, 10^9 bytes/s.
        host_gb_s: from the memory of its host, 10^9 bytes/s (0: the same memory).
    """

    memory_gib: float = 0.0
    peak_tflops: dict[str, float] = field(default_factory=dict)
    memory_gb_s: float = 0.0
    intra_gb_s: float = 0.0
    inter_gb_s: float = 0.0
    host_gb_s: float = 0.0


@dataclass
class Assumed:
    """What no table knows; each can be set on the command line (``assumed.mfu=0.5``).

    Attributes:
        mfu: share of the peak that matrix products reach.
        half_rows: positions of a micro-batch at which products reach half of that; more reach more.
        bandwidth: share of the bandwidths that memory and links reach.
        layer_us: host time to launch the kernels of a layer's forward (its backward: twice that),
            microseconds; a layer takes no less, however small the micro-batch.
        context_gib: CUDA context and libraries, GiB.
        communicator_gib: buffers of each NCCL communicator, GiB.
        fragmentation: memory of activations and other passing tensors that is lost between blocks,
            as a share of it.
        predicted: share of the positions that are predicted; null: from the data section.
    """

    mfu: float = 0.4
    half_rows: float = 256.0
    bandwidth: float = 0.7
    layer_us: float = 150.0
    context_gib: float = 0.75
    communicator_gib: float = 0.15
    fragmentation: float = 0.1
    predicted: float | None = None
