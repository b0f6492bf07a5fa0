"""What can be configured of where the work is done: a machine, a cluster's site, a submission.

None of it says what is learnt. A field's unit is in its name, and its meaning in the comment beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

MISSING: Any = "???"

# OmegaConf reads the annotations at run time and wants typing.Optional on Python 3.10.
Text = Optional[str]


@dataclass
class MachineConfig:
    """How the work is carried out here; never what is learnt."""

    name: str = MISSING
    device: str = "auto"  # or cpu, cuda
    engine: str = "torch"  # or deepspeed
    zero_stage: int = 2  # of engine=deepspeed
    offload_optimizer: bool = False  # optimizer states in host memory
    optimizer_bits: int = (
        32  # 8: optimizer states in a quarter of the memory (bitsandbytes); engine=torch only
    )
    precision: str = "auto"  # or fp32, bf16, fp16
    micro_batch: int = 8  # samples per device in one forward and backward pass
    gradient_checkpointing: bool = False  # recompute activations to save memory
    compile: bool = False  # torch.compile: a minute at the start for faster steps; engine=torch only
    reader_threads: int = 1  # threads that read shards
    prefetch_batches: int = 2  # batches read ahead
    cache_latents: bool = True  # and the text embeddings of a frozen text encoder: cached next to the shards
    cache_folder: Text = None  # for both, if the shards' folder is read-only
    processes: int = 0  # of prepare; 0: one per core
    threads: int = 0  # of PyTorch; 0: chosen for this machine
    watchdog_s: int = 900  # a longer step ends the process, with a stack dump; 0: never
    offload_parameters: bool = False  # ZeRO-3 only: the weights too wait in host memory
    session_hours: float = 0.0  # train: how long this machine's session lasts, as for notebooks; 0: no limit
    session_lead_min: float = 10.0  # the run saves and stops this long before the end
    session_began: Text = None  # e.g. 14:05; null: start of the notebook's machine, else of this command
    attention: str = "auto"  # during generation; sliced: head by head, for GPUs without a fused kernel
    offload_generation: str = "none"  # model: each network only while in use; sequential: each layer
    vae_tiling: bool = False  # generation decodes large pictures in tiles
    save_in_background: bool = True  # false: training blocks on saves, which then need no copy in host memory
    max_gpu_memory_gib: float = 0.0  # hard limit on GPU allocations; 0: no limit
    collective_timeout_s: int = 1800  # if peers wait longer than this for a rank, the run ends

    def __post_init__(self) -> None:
        """Which of the fields the user set by name: no key of its own, since it decides nothing by itself."""
        self.said: tuple[str, ...] = ()


@dataclass
class SiteConfig:
    """A cluster's own facts, as data. `birdsd site detect` writes one from what Slurm itself says."""

    name: str = MISSING
    executor: str = "slurm"  # or local: processes on this machine
    partition: Text = None
    account: Text = None
    qos: Text = None
    constraint: Text = None
    gpus_per_node: int = 0  # one task per GPU; 0: the partition has none
    gpu_syntax: str = "gpus"  # gpus: --gpus-per-node=N; gres: --gres=gpu:N
    gpu_type: Text = None
    cpus_per_task: int = 0  # 0: the site's default
    memory_gb_per_node: float = 0.0  # 0: the site's default
    time_limit_min: int = 60  # of one allocation; the longest that the partition allows
    max_nodes: int = 0  # 0: no limit is known
    max_cpus: int = 0  # of a job on all its nodes, which share them out; 0: no limit is known
    max_memory_gb: float = 0.0  # the same of memory
    cpu_partition: Text = None  # for jobs that need no GPU; null: they stay in `partition`, without one
    cpu_time_limit_min: int = 0  # there; 0: as time_limit_min
    cpu_cpus_per_node: int = 0  # no more are asked for there; 0: no limit is known
    cpu_memory_gb_per_node: float = 0.0  # the same of memory
    signal_lead_s: int = 120  # how long before the time limit Slurm sends the warning
    hand_over: str = "requeue"  # or chain, resubmit, manual: how the run continues in the next allocation
    chain_length: int = 4  # allocations queued at once with hand_over=chain
    max_idle_allocations: int = 5  # this many in a row without a new checkpoint end the chain
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)  # shell lines, before Python starts
    environment: dict[str, Any] = field(default_factory=dict)
    proxy: Text = None  # for http and https, where compute nodes reach the network through one
    offline: bool = True  # compute nodes have no internet: hubs and trackers work offline
    scratch: Text = None  # node-local, e.g. $TMPDIR
    python: Text = None  # null: the interpreter that submits
    sbatch: dict[str, Any] = field(default_factory=dict)  # further options of sbatch, by their long names
    srun: list[str] = field(default_factory=list)  # further options of srun


@dataclass
class SubmitConfig:
    """Where a job runs and with what: what `birdsd submit` takes besides the job's own settings."""

    nodes: int = 1
    tasks_per_node: int = 0  # processes; 0: one per GPU of the site, or 1
    array: int = 0  # number of tasks that split the shards (prepare) or the clips (generate)
    site: SiteConfig = field(default_factory=SiteConfig)
