"""Several processes train one model: what they agree on, and who speaks when one of them fails.

A step learns from `training.batch_size` × `training.gradient_accumulation` examples on any number of processes; they
share those examples. The first process does everything but training alone; the others wait for it.
"""

import contextlib
import datetime
import os
import pickle
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from skipwise.config import RunConfig, TrainingConfig
from skipwise.errors import SkipwiseError
from skipwise.training import zero
from skipwise.utils import processes
from skipwise.utils.launch import LAUNCHER
from skipwise.utils.processes import Place
from skipwise.utils.termination import Terminated

TIMEOUT = datetime.timedelta(minutes=30)
"""Longest time that processes wait for each other in training. The longest wait is for a checkpoint."""
POLL_SECONDS = 0.2
READ_SECONDS = 5.0
MESSAGE_BYTES = 4 * 2**20
"""Most bytes of one entry of the store. torch refuses more than 8 MiB."""
FINISHED = "finished"
"""The message after which there is nothing more to do."""
USER_ERROR = 2
LAUNCHER_PLUGINS = {
    "ACCELERATE_USE_DEEPSPEED": "Set training.parallel=deepspeed instead",
    "ACCELERATE_USE_FSDP": "Set training.parallel=fsdp instead",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "Sequence parallelism takes skips of positions for borders of texts",
}
"""Variables of `accelerate launch` that change how the Trainer works, and what to do instead."""
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)


def share(config: TrainingConfig, size: int) -> tuple[int, int]:
    """Divide the examples of a step among processes.

    Args:
        config: Names the examples of a step, and at most how many go into one forward pass.
        size: Number of processes.

    Returns:
        Examples in one forward pass of a process, and its forward passes in a step.

    Raises:
        SkipwiseError: They cannot be divided evenly.
    """
    total = config.batch_size * config.gradient_accumulation
    if total % size:
        raise SkipwiseError(
            f"{size} processes cannot share {total:,} examples a step evenly (training.batch_size × "
            f"training.gradient_accumulation); make that a multiple of {size}, or start fewer processes"
        )
    each = total // size
    batch = next(count for count in range(min(config.batch_size, each), 0, -1) if each % count == 0)
    return batch, each // batch


def check(config: RunConfig, place: Place) -> None:
    """Refuse settings under which the processes of a job cannot train.

    Raises:
        SkipwiseError: The examples of a step cannot be shared, one process alone shall divide the weights, they are
            of a kind that cannot be divided, or DeepSpeed cannot be used.
    """
    share(config.training, place.size)
    zero.check(config.training)
    for variable, remedy in LAUNCHER_PLUGINS.items():
        if os.environ.get(variable, "").lower() in ("true", "1"):
            raise SkipwiseError(f"accelerate's configuration sets {variable}; turn it off. {remedy}")
    parallel = config.training.parallel
    if parallel not in ("fsdp", "deepspeed") or not config.training.steps:
        return
    if not place.launched:
        raise SkipwiseError(
            f"training.parallel={parallel} needs several processes; add --processes N, or start with torchrun"
        )
    if config.adapter.method == "qlora":
        raise SkipwiseError(
            f"training.parallel={parallel} cannot divide a base in 4 bits (adapter.method=qlora): use "
            "training.parallel=ddp, or adapter.method=lora with fsdp"
        )
    if parallel == "deepspeed" and config.adapter.method != "none":
        raise SkipwiseError("training.parallel=deepspeed trains all weights; with adapter.method=lora use fsdp or ddp")


class Ended(SystemExit):
    """Another process of the job has said why it ended, so this one ends without a word."""


class Team:
    """The processes of one job, and a store through which the first one tells the others what to do.

    Args:
        place: Of this process.
        store: Shared by all; None where there is one process.
        variables: What the launcher wrote into the environment and `processes.alone` hides.
    """

    def __init__(self, place: Place, store: Any = None, variables: dict[str, str] | None = None) -> None:
        self.place, self.store, self._variables = place, store, variables or {}
        self._messages = 0
        self._names: Counter[str] = Counter()

    @property
    def first(self) -> bool:
        """Whether this is the process that does everything but training alone."""
        return self.place.rank == 0

    def tell(self, message: Any) -> None:
        """Send a message from the first process to all others. In another process nothing happens."""
        if self.store is not None and self.first:
            key, data = f"message-{self._messages}", pickle.dumps(message)
            parts = range(0, len(data), MESSAGE_BYTES)
            for i, start in enumerate(parts):
                self.store.set(f"{key}-{i}", data[start : start + MESSAGE_BYTES])
            self.store.set(key, str(len(parts)))
            self.store.check([key])  # the answer shows that it has arrived, should this process end now
            self._messages += 1

    def finish(self, message: Any) -> None:
        """Send the last message, and wait a little until the others have read it: they may lose the store with us."""
        self.tell(message)
        deadline = time.monotonic() + READ_SECONDS
        while self.store is not None and int(self.store.add("finished", 0)) < self.place.size - 1:
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_SECONDS / 4)

    def wait(self) -> Any:
        """Return the next message of the first process. Raises `Ended` where it ended, with its exit code."""
        key = f"message-{self._messages}"
        while not self.store.check([key]):
            time.sleep(POLL_SECONDS)
        self._messages += 1
        data = b"".join(self.store.get(f"{key}-{i}") for i in range(int(self.store.get(key))))
        message = pickle.loads(data)  # written by the first process of this job
        if message == FINISHED or isinstance(message, Ended):
            self.store.add("finished", 1)
        if isinstance(message, Ended):
            raise message
        return message

    def name(self, subject: str) -> str:
        """Return a name for the next piece of common work on a subject, the same in each process."""
        self._names[subject] += 1
        return f"{subject}-{self._names[subject]}"

    def take(self, name: str) -> int:
        """Return the next number, from 0, that no process has taken under a name. Raises as `_check`."""
        self._check()
        return int(self.store.add(f"{name}-taken", 1)) - 1

    def arrive(self, name: str) -> None:
        """Let the others know that this process has come so far."""
        if self.store is not None:
            self.store.add(f"{name}-arrived", 1)

    def meet(self, name: str) -> None:
        """Wait until every process has arrived. Raises as `_check`."""
        while self.store is not None and int(self.store.add(f"{name}-arrived", 0)) < self.place.size:
            self._check()
            time.sleep(POLL_SECONDS)

    def _check(self) -> None:
        """Raise `Ended` where another process has said why the job ends."""
        if int(self.store.add("spoken", 0)):
            raise Ended(USER_ERROR)

    def speaks(self) -> bool:
        """Tell whether no other process of the job has said yet why it ends."""
        try:
            return int(self.store.add("spoken", 1)) == 1
        except RuntimeError:  # the process that held the store is gone
            return True

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Let the processes of the block work together: torch's process group and the launcher's variables are there.

        The number of the GPU is that of the process on its machine.
        """
        if self.store is None:
            yield
            return
        os.environ.update(self._variables)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(
            backend,
            store=PrefixStore("training", self.store),
            rank=self.place.rank,
            world_size=self.place.size,
            timeout=TIMEOUT,
        )
        try:
            yield
            distributed.barrier()
        finally:
            _leave()
            for name in self._variables:
                os.environ.pop(name, None)


def _leave() -> None:
    """Forget the other processes: what runs next in this one is alone."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    zero.forget()
    with contextlib.suppress(RuntimeError):
        distributed.destroy_process_group()


@contextlib.contextmanager
def joined(*, again: str = "run the same command with --resume") -> Iterator[Team]:
    """Join the other processes of this job for a block; without a launcher the block has one process.

    An error in one process ends all of them, and one of them prints it.

    Args:
        again: How the user goes on after a process was lost.

    Raises:
        SkipwiseError: Another process was lost.
        Ended: Another process has spoken.
    """
    here = processes.place()
    if not here.launched:
        yield Team(here)
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    except (RuntimeError, ValueError) as error:
        raise SkipwiseError("the processes of this job did not find each other; start all of them at once") from error
    with processes.alone() as variables:
        team = Team(here, store, variables)
        try:
            yield team
        except BaseException as error:
            _end(team, error, again)


def _end(team: Team, error: BaseException, again: str) -> NoReturn:
    """End this process after an error: with a line about it, or in silence where another process has spoken."""
    if isinstance(error, Ended):
        raise error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher ends the others when the first has ended
    lost = _is_lost(error)
    if lost:
        error = SkipwiseError(f"another process of this job ended or does not answer; to go on, {again}")
    code = error.code if isinstance(error, Terminated) else USER_ERROR
    speaks = not (lost and LAUNCHER in os.environ) and team.speaks()
    if team.first:
        with contextlib.suppress(RuntimeError):
            team.finish(Ended(code))
    if not speaks:
        raise Ended(code) from error
    processes.speak()
    raise error


def _is_lost(error: BaseException) -> bool:
    """Whether an error says that the connection to another process broke."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and bool(_LOST.search(f"{error}"))
    )


def mean(value: Tensor) -> Tensor:
    """Return the mean of a number over all processes, the same on each; where there is one, the number itself."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return value
    total = value.detach().float().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def any_of(flag: bool, device: torch.device) -> bool:
    """Tell whether a statement is true on any process, the same on each."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return flag
    count = torch.tensor(float(flag), device=device)
    distributed.all_reduce(count)
    return bool(count > 0)


def wait_for_all() -> None:
    """Wait until every process has come here."""
    if distributed.is_initialized():
        distributed.barrier()
