"""What tests of the worker share: a stage whose outputs are told by its input, and lives of a worker around it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from runtime.bus import Bus
from runtime.fences import StreamEnd
from runtime.readers import read
from runtime.settings import Common
from runtime.testing import Life, eventually
from runtime.vocabulary import stage_duration
from runtime.wire import In, Out, chunks
from runtime.worker import FIGURES, Worker, first_of, keep_on
from schemas import subjects


class Repeat:
    """A stage: `name*3` becomes the outputs name-0, name-1, name-2; their bytes are their ids."""

    output = "DECISIONS"

    def __init__(self) -> None:
        self.decided: list[str] = []
        self.rebuilt: list[tuple[int, int]] = []
        self.on_decide: Callable[[str], None] = lambda text: None

    async def rebuild(self, after: int, floor: int) -> None:
        self.rebuilt.append((after, floor))

    def decide(self, message: In) -> Sequence[Out]:
        text = message.data.decode()
        self.on_decide(text)
        self.decided.append(text)
        return outs(text)

    async def settled(self) -> None:
        return


def outs(*texts: str) -> list[Out]:
    """Raises ValueError for a text that is not `name*count`."""
    found = []
    for text in texts:
        name, _, count = text.partition("*")
        ids = [f"{name}-{i}" for i in range(int(count))]
        found += [Out(f"decisions.SNIPER.{id_}", id_.encode(), id=id_) for id_ in ids]
    return found


class Running(Life):
    """One life of a worker."""

    def __init__(self, url: str) -> None:
        super().__init__("test", Common(nats_url=url), {**FIGURES, **stage_duration("test")}, log_level="debug")
        self.stage = Repeat()

    def run(self) -> None:
        process, ready = self.process, asyncio.Event()
        fence = StreamEnd(process.bus, self.stage.output)
        worker = Worker(
            process, subjects.ANALYZE, self.stage, fence, ready, output_id=lambda message: message.data.decode()
        )

        async def step() -> None:
            ready.clear()
            if not await worker.step():
                await first_of(ready, process.stop)

        self.work(keep_on(process, worker.start, step))


@contextlib.asynccontextmanager
async def worker(url: str, prepare: Callable[[Running], None] = lambda running: None) -> AsyncIterator[Running]:
    running = Running(url)
    prepare(running)
    await running.open()
    running.run()
    try:
        yield running
    finally:
        await running.kill()


async def feed(bus: Bus, *texts: str) -> None:
    for chunk in chunks([Out("tokens.created.m", text.encode()) for text in texts]):
        await bus.append(chunk)


async def stored(bus: Bus) -> list[str]:
    return [message.data.decode() for message in await read(bus, "DECISIONS", after_sequence=0)]


async def floor(bus: Bus) -> int:
    return int((await bus.consumer_info("TOKENS", "analyze"))["ack_floor"]["stream_seq"])


async def done(bus: Bus, sequence: int) -> None:
    """Wait until the worker has acknowledged up to an input."""

    async def acknowledged() -> bool:
        return await floor(bus) >= sequence

    await eventually(acknowledged, f"the acknowledgement of {sequence}")


def expected(*texts: str) -> list[str]:
    return [out.id for out in outs(*texts)]
