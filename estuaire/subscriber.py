"""The reference consumer of a view: the rules by which a subscriber's copy stays equal to what the permit allows.

All messages of one subject are in one partition, in the order of their sequence. Partitions come in any order, so a
record that moved to another subject may be published there before it is withdrawn here: what is known of a record is
kept for each subject apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from pydantic import ValidationError

from contracts.events import ViewEvent
from runtime.kafka import SILENT, consumer_config
from runtime.settings import RuntimeSettings

WITHDRAWN: Final = "record.withdrawn"
MERGED: Final = "patient.merged"
SPLIT: Final = "patient.split"
RESET: Final = "view.reset"


class ViewError(Exception):
    """The view cannot be read. One line."""


@dataclass(slots=True)
class _Held:
    """The newest that one subject's messages have said of one record; `event` is None once it left."""

    sequence: int
    event: ViewEvent | None
    partition: int | None


class View:
    """A subscriber's copy of a view. Messages of a subject are given in their order, subjects in any."""

    def __init__(self) -> None:
        self._records: defaultdict[str, dict[str, _Held]] = defaultdict(dict)
        self._of_subject: defaultdict[str, set[str]] = defaultdict(set)

    def apply(self, event: ViewEvent, partition: int | None = None) -> bool:
        """Follow one message; False when it changes nothing, because a newer one is known.

        Give the partition it came from where there is one: a key that is written again in the same partition, be it a
        withdrawal from another subject, makes what was there before obsolete, for compaction may have removed what was
        in between.
        """
        if event.type == RESET:
            return self._reset(event, partition)
        if event.type in (MERGED, SPLIT):
            return self._close(event)
        of_record = self._records[event.id]
        subject = event.subject or ""
        known = of_record.get(subject)
        if known is not None and known.sequence >= event.sequence:
            return False
        obsolete = [
            held
            for other, held in of_record.items()
            if other == subject or (partition is not None and held.partition == partition)
        ]
        changed = any(held.event is not None for held in obsolete)
        for held in obsolete:
            held.event = None
        withdrawn = event.type == WITHDRAWN
        self._of_subject[subject].add(event.id)
        of_record[subject] = _Held(event.sequence, None if withdrawn else event, partition)
        return changed or not withdrawn

    def _close(self, event: ViewEvent) -> bool:
        """After a merge nothing is left of the retired subject: all its withdrawals came before, in its partition."""
        retired = event.data.get("retired")
        if event.type != MERGED or event.subject != retired:
            return False
        changed = False
        for of_record in self._records.values():
            held = of_record.get(str(retired))
            if held is not None and held.event is not None and held.sequence < event.sequence:
                held.event, held.sequence, changed = None, event.sequence, True
        return changed

    def _reset(self, event: ViewEvent, partition: int | None) -> bool:
        """Forget a subject, a partition, or everything: the view is published anew after it."""
        changed = False
        for of_record in self._records.values():
            for subject, held in of_record.items():
                here = partition is None or held.partition == partition
                concerned = here if event.subject is None else subject == event.subject
                if concerned and held.event is not None and (event.subject is None or held.sequence < event.sequence):
                    held.event, changed = None, True
        return changed

    def entries(self) -> list[ViewEvent]:
        """Every record that the view holds, by subject, time and id."""
        held = (one.event for of_record in self._records.values() for one in of_record.values())
        return sorted((one for one in held if one is not None), key=_place)

    def timeline(self, subject: str) -> list[ViewEvent]:
        """The records of one subject, by time and id."""
        held = (self._records[one][subject].event for one in self._of_subject.get(subject, ()))
        return sorted((one for one in held if one is not None), key=_place)

    def timelines(self) -> dict[str, list[ViewEvent]]:
        """The records of each subject, by time and id."""
        found: dict[str, list[ViewEvent]] = {}
        for event in self.entries():
            found.setdefault(event.subject or "", []).append(event)
        return found


def _place(event: ViewEvent) -> tuple[str, str, str]:
    return event.subject or "", event.time or "", event.id


class Subscriber:
    """Reads `view-<permit>` from the beginning, committed messages only. It keeps its place by itself: no group."""

    def __init__(self, settings: RuntimeSettings, permit: str) -> None:
        self._topic = f"{settings.topic_prefix}view-{permit}"
        self._config = consumer_config(settings, f"subscriber-{permit}") | {"enable.partition.eof": True, **SILENT}

    def read(self) -> View:
        """The view as it is now. Raises ViewError."""
        view = View()
        for _ in self._messages(view, lambda: True):
            pass
        return view

    def follow(self, view: View, stopped: Callable[[], bool] = lambda: False) -> Iterator[ViewEvent]:
        """Every message from the beginning and on, each applied to `view` before it is given. Raises ViewError.

        It is asked whether it is `stopped` once a second at least.
        """
        return self._messages(view, stopped)

    def _messages(self, view: View, stopped: Callable[[], bool]) -> Iterator[ViewEvent]:
        consumer = Consumer(self._config)
        try:
            known = consumer.list_topics(self._topic, timeout=10).topics[self._topic]
            if known.error is not None:
                raise ViewError(f"there is no view {self._topic}: the permit is not open, or not yours")
            consumer.assign([TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in known.partitions])
            unread = set(known.partitions)
            while unread or not stopped():
                message = consumer.poll(1.0)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    event = _decoded(self._topic, message.value())
                    if event is not None:
                        view.apply(event, message.partition())
                        yield event
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition() or 0)
                else:
                    raise ViewError(f"{self._topic}: {error.str()}")
        except KafkaException as error:
            raise ViewError(f"{self._topic}: {error.args[0].str()}") from None
        finally:
            consumer.close()


def _decoded(topic: str, value: bytes | None) -> ViewEvent | None:
    if not value:
        return None
    try:
        return ViewEvent.model_validate_json(value)
    except ValidationError:
        raise ViewError(f"{topic} has a message that is no view event") from None
