"""Every topic, read from `contracts/topics/*.yaml`: what to create, who may write and read it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

HERE = Path(__file__).parent
BACKFILL = "-backfill"
DEAD_LETTERS = "-dlq"
DAY_MS = 24 * 60 * 60 * 1000


class Topic(BaseModel):
    """One topic as its file declares it. `partitions: hot` is the deployment's partition count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    owner: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    key: str
    partitions: int | Literal["hot"]
    lanes: tuple[Literal["live", "backfill"], ...]
    dead_letters: bool
    cleanup: Literal["delete", "compact", "compact,delete"] = Field(
        description="With both, what was written may also be deleted at once, up to some offset."
    )
    retention_days: int | None = Field(None, description="Days; -1 is for ever.")
    append_time: bool = Field(False, description="The broker stamps messages on arrival.")
    per_permit: bool = False
    headers: tuple[str, ...] = Field((), description="Headers every message has; `traceparent` may always be there.")
    markers: bool = Field(False, description="Markers pass through this topic (docs/adr/0009).")
    encoding: Literal["msgpack", "json"]
    schema_versions: tuple[int, ...]

    def settings(self) -> dict[str, str]:
        """The broker's settings for this topic."""
        settings: dict[str, str] = {"cleanup.policy": self.cleanup}
        if self.retention_days is not None:
            settings["retention.ms"] = str(self.retention_days * DAY_MS if self.retention_days > 0 else -1)
        if self.append_time:
            settings["message.timestamp.type"] = "LogAppendTime"
        return settings

    @property
    def writers(self) -> tuple[str, ...]:
        """Who may write it: its producers, and who may send what it could not process round again."""
        return tuple(dict.fromkeys((*self.producers, *(self.consumers if self.dead_letters else ()))))

    def lane_names(self) -> tuple[str, ...]:
        """The topic and its lanes, in the order of their priority."""
        return tuple(self.name if lane == "live" else self.name + BACKFILL for lane in self.lanes)


class TopicToCreate(BaseModel):
    """One topic of the broker."""

    name: str
    partitions: int
    settings: dict[str, str]


@cache
def topics() -> dict[str, Topic]:
    """All topics by name."""
    found = {}
    for path in sorted((HERE / "topics").glob("*.yaml")):
        found[path.stem] = Topic(name=path.stem, **yaml.safe_load(path.read_text()))
    return found


def topics_to_create(hot_partitions: int, prefix: str = "") -> list[TopicToCreate]:
    """Every topic, lane and dead-letter queue of a deployment, but for the views (see `view_topic`)."""
    wanted = []
    for topic in topics().values():
        if topic.per_permit:
            continue
        count = hot_partitions if topic.partitions == "hot" else topic.partitions
        wanted += [
            TopicToCreate(name=prefix + name, partitions=count, settings=topic.settings())
            for name in topic.lane_names()
        ]
        if topic.dead_letters:
            dead = {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS)}
            wanted.append(TopicToCreate(name=prefix + topic.name + DEAD_LETTERS, partitions=1, settings=dead))
    return wanted


def view_topic(permit: str, hot_partitions: int, prefix: str = "") -> TopicToCreate:
    """The topic of one permit's view."""
    return TopicToCreate(name=f"{prefix}view-{permit}", partitions=hot_partitions, settings=topics()["view"].settings())
