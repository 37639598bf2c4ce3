"""Records at level 1 in, records at level 2 out; a permit granted in, its wrapped key out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import msgspec

from contracts import audit, messages
from contracts.comparison import ROW_BYTES
from contracts.messages import Headers, PermitGranted, PermitKeyWrapped, RecordPseudonymised, RecordReceived, TokenBlock
from runtime.messages import Emit, InvalidMessage, Message, Outputs, Reason
from runtime.sealing import Opener, SealBroken, Sealer
from services.pseudonym.domain import SecondLevel, permit_key

RECEIVED = "records-received"
PSEUDONYMISED = "records-pseudonymised"
OPPOSITIONS = "oppositions"
PERMITS = "permits"


class Pseudonymise:
    """The step of this service. It opens tokens, never content."""

    def __init__(
        self,
        second_level: SecondLevel,
        permit_root: Mapping[int, bytes],
        opener: Opener,
        to_linkage: Sealer,
        to_access: Sealer,
        topic_prefix: str = "",
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._second_level = second_level
        self._permit_root = permit_root
        self._opener = opener
        self._to_linkage = to_linkage
        self._to_access = to_access
        self._prefix = topic_prefix
        self._clock = clock
        self._received = msgspec.msgpack.Decoder(RecordReceived)
        self._block = msgspec.msgpack.Decoder(TokenBlock)
        self._permit = msgspec.msgpack.Decoder(messages.PermitMessage)

    def prepare(self, batch: Sequence[Message]) -> None:
        """Nothing: this service has no memory."""

    def origin(self, message: Message) -> tuple[str, int]:
        """The record's source; the broker's append time is when the hub accepted it."""
        source = message.headers.get(Headers.SOURCE, b"").decode("utf-8", "replace")
        return source, message.timestamp if source else 0

    def handle(self, batch: Sequence[Message]) -> Outputs:
        """Re-key the tokens of the whole batch at once; wrap the keys of permits among it."""
        outputs = Outputs()
        opened: list[tuple[Message, RecordReceived, TokenBlock, bytes]] = []
        for message in batch:
            try:
                if message.topic == self._prefix + PERMITS:
                    self._wrap_permit_key(message, outputs)
                else:
                    opened.append((message, *self._open(message)))
            except InvalidMessage as why:
                outputs.reject(message, why)
        blocks = [block for _, _, block, _ in opened]
        permuted = self._second_level.tokens(chain.from_iterable(block.tokens() for block in blocks))
        compared = [list(block.meeting_tokens()) if block.codes else [] for block in blocks]
        codes = self._second_level.codes([block.codes for block in blocks], list(chain.from_iterable(compared)))
        for (message, record, block, bound), rows in zip(opened, codes, strict=True):
            version = f"{block.code_version}.{self._second_level.version}"
            rekeyed = msgspec.structs.replace(block.with_tokens(permuted), codes=rows, code_version=version)
            second = msgspec.msgpack.encode(rekeyed)
            value = RecordPseudonymised(self._to_linkage.seal(second, bound), record.content)
            outputs.emit(message, self._emit(message, messages.encode(value)))
            outputs.count(message.header(Headers.SOURCE), "pseudonymised")
        return outputs

    def _open(self, message: Message) -> tuple[RecordReceived, TokenBlock, bytes]:
        bound = messages.associated(
            message.header(Headers.EVENT_ID),
            message.header(Headers.TYPE),
            message.header(Headers.SOURCE),
            message.header(Headers.DIGEST),
        )
        _checked_revision(message)
        try:
            record = self._received.decode(message.value)
            block = self._block.decode(self._opener.open(record.tokens, bound))
        except SealBroken as broken:
            raise InvalidMessage(Reason.KEYS, f"the tokens cannot be opened: {broken}") from None
        except msgspec.MsgspecError:
            raise InvalidMessage(Reason.DECODING, "the body is not a RecordReceived with a TokenBlock") from None
        if any(len(token) != len(block.subject) or len(token) != 16 for token in block.tokens()):
            raise InvalidMessage(Reason.SCHEMA, "a token is not 16 bytes long")
        if block.codes and len(block.codes) != ROW_BYTES * (len(block.identifiers) + len(block.blocking)):
            raise InvalidMessage(Reason.SCHEMA, "the codes are not one row for each token")
        return record, block, bound

    def _emit(self, message: Message, value: bytes) -> Emit:
        came = message.topic.removeprefix(self._prefix)
        into = OPPOSITIONS + "-pseudonymised" if came == OPPOSITIONS else PSEUDONYMISED + came.removeprefix(RECEIVED)
        revision = messages.revision(message.header(Headers.REVISION), message.timestamp, message.offset)
        version = f"{message.header(Headers.KEY_VERSION)}.{self._second_level.version}"
        headers = {
            **{name: text for name, text in message.headers.items() if name in _PASSED_ON},
            Headers.REVISION: revision.encode(),
            Headers.KEY_VERSION: version.encode(),
        }
        return Emit(into, message.key, value, headers)

    def _wrap_permit_key(self, message: Message, outputs: Outputs) -> None:
        if not message.value:
            return
        try:
            granted = self._permit.decode(message.value)
        except msgspec.MsgspecError:
            raise InvalidMessage(Reason.DECODING, "the body is not a PermitMessage") from None
        if isinstance(granted, PermitGranted):
            key = permit_key(self._permit_root, granted.permit)
            sealed = self._to_access.seal(key, messages.permit_associated(granted.permit))
            wrapped = PermitKeyWrapped(granted.permit, sealed)
            outputs.emit(message, Emit(PERMITS, f"{granted.permit}#key".encode(), messages.encode(wrapped)))
            used = audit.leaf("permit-key-derived", _PSEUDONYM, self._clock(), permit=granted.permit)
            outputs.emit(message, Emit(*audit.message(used), trace="none"))


_PSEUDONYM = audit.actor("service", "pseudonym")
_PASSED_ON = frozenset({Headers.EVENT_ID, Headers.SOURCE, Headers.TYPE, Headers.DIGEST, Headers.TRACEPARENT})


def _checked_revision(message: Message) -> None:
    stated = message.header(Headers.REVISION)
    if not stated.replace("-", "").isdigit():
        raise InvalidMessage(Reason.SCHEMA, "header revision is neither a number nor a whole revision")
