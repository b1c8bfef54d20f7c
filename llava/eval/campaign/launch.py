"""The command line of lmms-eval for a run, on one process, several GPUs or several machines."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.eval.campaign.plan import Run
from llava.eval.campaign.spec import CampaignError

LAUNCHERS = ("torchrun", "accelerate")


@dataclass(frozen=True)
class Launch:
    """Where a campaign runs.

    processes: on each machine, one a GPU. main_address: HOST:PORT of machine 0. device: None takes the GPUs.
    module: what stands for lmms-eval.
    """

    processes: int = 1
    machines: int = 1
    machine_rank: int = 0
    main_address: str | None = None
    launcher: str = "torchrun"
    device: str | None = None
    module: str = "lmms_eval"

    def __post_init__(self) -> None:
        if self.processes < 1 or self.machines < 1:
            raise CampaignError("--processes and --machines must be 1 or more.")
        if not 0 <= self.machine_rank < self.machines:
            raise CampaignError(f"--machine-rank counts from 0 to {self.machines - 1}, and is {self.machine_rank}.")
        if self.launcher not in LAUNCHERS:
            raise CampaignError(f"There is no launcher {self.launcher!r}; use {' or '.join(LAUNCHERS)}.")
        if self.machines > 1 and not (self.main_address and self.main_address.rpartition(":")[2].isdigit()):
            raise CampaignError("Several machines need --main-address HOST:PORT, the address of machine 0.")
        if self.launcher == "accelerate" and self.device == "cpu" and self.processes * self.machines > 1:
            raise CampaignError("accelerate starts one process only on CPUs; use --launcher torchrun there.")

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.processes * self.machines


def command(run: Run, launch: Launch, attempt: Path) -> list[str]:
    """The whole command; results go to `attempt`."""
    return [*starter(launch), "-m", launch.module, *harness_arguments(run, launch, attempt)]


def starter(launch: Launch) -> list[str]:
    """The words before `-m MODULE`: Python alone, or what starts it several times."""
    if launch.world == 1:
        return [sys.executable]
    host, _, port = (launch.main_address or "").rpartition(":")
    if launch.launcher == "accelerate":
        several = ["--main_process_ip", host, "--main_process_port", port] if launch.machines > 1 else []
        return [
            sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(launch.world),
            "--num_machines", str(launch.machines), "--machine_rank", str(launch.machine_rank), *several,
        ]  # fmt: skip
    where = ["--standalone"]
    if launch.machines > 1:
        where = ["--nnodes", str(launch.machines), "--node_rank", str(launch.machine_rank)]
        where += ["--master_addr", host, "--master_port", port]
    return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(launch.processes), *where]


def harness_arguments(run: Run, launch: Launch, attempt: Path) -> list[str]:
    """lmms-eval's own arguments. Without DEBUG it leaves with 0 after an exception."""
    arguments = [
        "--model", run.model.id, "--model_args", model_arguments(run, launch), "--tasks", run.task.name,
        "--batch_size", "1", "--seed", str(run.seed), "--output_path", str(attempt), "--log_samples",
        "--verbosity", "DEBUG",
    ]  # fmt: skip
    if run.limit is not None:
        arguments += ["--limit", str(run.limit)]
    if run.include_path:
        arguments += ["--include_path", str(Path(run.include_path).resolve())]
    if launch.device:
        arguments += ["--device", launch.device]
    return arguments


def model_arguments(run: Run, launch: Launch) -> str:
    """--model_args: checkpoint, the wrapper's arguments, the method's settings, the response store."""
    values: dict[str, Any] = {"pretrained": run.model.checkpoint, **run.arguments}
    if launch.device:
        values["device_map"] = "auto"  # with --device; either alone goes to the GPU
    if run.model.keeps_answers:
        values |= run.setting.aot_on(run.task.name) or {"retention": 1}  # 1 leaves every token
        values["store"] = str(run.store)
    return ",".join(f"{name}={_text(name, value)}" for name, value in values.items())


def _text(name: str, value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, separators=(",", ":"))
    text = str(value)
    if not text.isprintable() or any(mark in text for mark in ",'\"{}[]"):
        raise CampaignError(f"{name} is {text!r}, but lmms-eval takes no commas, quotes or brackets there; rename it.")
    return text
